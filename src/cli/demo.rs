use clap::Args;
#[derive(Args, Debug)]
pub struct Options {}
impl Options {
    pub fn run(self) -> Result<(), super::Failure> {
        Ok(())
    }
}
