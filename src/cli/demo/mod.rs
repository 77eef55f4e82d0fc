//! `parvis demo`: a slow built-in shop, parvis in front of it, and a tour whose every claim is checked.

mod shop;
mod tour;

use std::net::{SocketAddr, TcpListener};

use clap::Args;
use uuid::Uuid;

use super::{Failure, print};
use crate::config::load;
use crate::plan::Plan;
use crate::server::{self, ServeError, Settings};

const YAML: &str = include_str!("demo.yaml");

#[derive(Args, Debug)]
pub struct Options {
    /// End after the tour; the exit code tells whether every step did what it claims.
    #[arg(long)]
    once: bool,
}

/// Where everything is.
struct Addresses {
    shop: SocketAddr,
    parvis: SocketAddr,
    admin: SocketAddr,
    token: String,
}

impl Options {
    pub fn run(self) -> Result<(), Failure> {
        let shop = shop::Shop::start()
            .map_err(|error| Failure::failed(format!("the shop did not open: {error}")))?;
        let addresses = Addresses {
            shop: shop.address,
            parvis: free_address()?,
            admin: free_address()?,
            token: Uuid::new_v4().to_string(),
        };
        let plan = plan(&addresses)?;
        let settings = Settings { plan, file: None, threads: 2, shortcut: true };
        let running = server::start(settings, std::io::sink()).map_err(failure)?;
        print(&format!(
            "A slow shop at http://{}, and parvis in front of it with this configuration:\n",
            addresses.shop
        ));
        print(&YAML.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n"));
        let all_held = tour::run(&addresses, &shop).map_err(Failure::failed)?;
        if self.once {
            return if all_held { Ok(()) } else { Err(Failure::failed("not every step did what it claims")) };
        }
        invite(&addresses);
        running.wait().map_err(failure)
    }
}

fn plan(addresses: &Addresses) -> Result<Plan, Failure> {
    let environment = |name: &str| match name {
        "LISTEN" => Some(addresses.parvis.to_string()),
        "ADMIN" => Some(addresses.admin.to_string()),
        "SHOP" => Some(addresses.shop.to_string()),
        "PARVIS_TOKEN" => Some(addresses.token.clone()),
        _ => None,
    };
    Ok(Plan::from_loaded(&load::parse("demo.yaml", YAML, &environment))?.0)
}

fn free_address() -> Result<SocketAddr, Failure> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|error| Failure::failed(format!("no free port: {error}")))
}

fn invite(at: &Addresses) {
    print(&format!(
        "\nBoth stay up until Ctrl-C. Try:\n\n    \
         curl -i http://{parvis}/products/7\n    \
         curl -i http://{parvis}/hello -H 'Cookie: sessionid=you'\n    \
         curl -X PUT http://{parvis}/api/products/7 -d 42\n    \
         curl http://{admin}/metrics\n    \
         PARVIS_TOKEN={token} parvis purge --admin http://{admin} --tag products",
        parvis = at.parvis,
        admin = at.admin,
        token = at.token,
    ));
}

fn failure(error: ServeError) -> Failure {
    Failure::failed(error.to_string())
}
