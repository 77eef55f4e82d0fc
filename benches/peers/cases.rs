//! What is measured: the requests, and what must come back before it counts.

use std::fmt::Write;

use crate::origin;

/// Objects of the Zipf mix. Their bodies are 4 KiB on average, and every cache may use 40 MiB.
pub const OBJECTS: usize = 100_000;

/// Popularity falls with rank to this power, as it does for pages of many sites.
const EXPONENT: f64 = 0.9;

/// Draws made in advance, so that every server gets the same ones at no cost.
const DRAWS: usize = 1 << 20;

/// Nine fields of a browser; `Host` is the tenth, and what a case adds to one of them is filled in.
const BROWSER: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Connection: keep-alive\r\n\
    Cookie: _ga=GA1.2.1234567890.1234567890; _fbp=fb.1.1234567890\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Priority: u=0, i\r\n";

/// Which paths are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// Always this one, which is stored.
    One(&'static str),
    /// Each time another that nobody asked for before.
    New,
    /// Popular ones often, of [`OBJECTS`].
    Zipf,
}

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// As on the command line.
    pub name: &'static str,
    /// As in the table.
    pub about: &'static str,
    /// What is asked for.
    pub paths: Paths,
    /// Whether the request accepts gzip among others, and the answer must be encoded.
    pub gzip: bool,
    /// Whether the client has the page already, and the answer must be a 304.
    pub conditional: bool,
    /// Connections with always one request under way.
    pub connections: usize,
    /// Connections that do nothing meanwhile.
    pub idle: usize,
    /// Whether the application fails others meanwhile, and a thousand clients trickle their heads.
    pub faults: bool,
}

const HIT: Case = Case {
    name: "",
    about: "",
    paths: Paths::One("/hit/1024"),
    gzip: false,
    conditional: false,
    connections: 64,
    idle: 0,
    faults: false,
};

/// All there are.
pub const CASES: &[Case] = &[
    Case { name: "hit-1k", about: "hit, 1 KiB", ..HIT },
    Case { name: "hit-15k", about: "hit, 15 KiB", paths: Paths::One("/hit/15360"), ..HIT },
    Case { name: "hit-100k", about: "hit, 100 KiB", paths: Paths::One("/hit/102400"), ..HIT },
    Case { name: "hit-1k-512", about: "hit, 1 KiB, 512 connections", connections: 512, ..HIT },
    Case {
        name: "gzip-15k",
        about: "hit, 15 KiB of JSON in gzip",
        paths: Paths::One("/json/15360"),
        gzip: true,
        ..HIT
    },
    Case { name: "not-modified", about: "304", paths: Paths::One("/hit/15360"), conditional: true, ..HIT },
    Case { name: "miss", about: "miss, 1 KiB", paths: Paths::New, ..HIT },
    Case { name: "zipf", about: "Zipf mix, 100,000 objects, a tenth fits", paths: Paths::Zipf, ..HIT },
    Case { name: "idle-1000", about: "hit, 1 KiB, beside 1,000 idle connections", idle: 1000, ..HIT },
    Case {
        name: "faults",
        about: "hit, 1 KiB, beside an application that fails and 1,000 slow heads",
        faults: true,
        ..HIT
    },
];

impl Case {
    /// The status of every answer.
    pub fn status(&self) -> u16 {
        if self.conditional { 304 } else { 200 }
    }

    /// The bytes of the body that an answer must have, where they are known.
    pub fn length(&self) -> Option<usize> {
        match self.paths {
            _ if self.conditional => Some(0),
            _ if self.gzip => None,
            Paths::One(path) => Some(origin::length(path.as_bytes())),
            Paths::New => Some(origin::NEW),
            Paths::Zipf => Some(origin::length(b"/zipf/0")),
        }
    }

    /// The request for a path.
    fn request(&self, path: &str) -> String {
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{BROWSER}");
        let encoding = if self.gzip { "gzip, deflate, br" } else { "identity" };
        write!(request, "Accept-Encoding: {encoding}\r\n").expect("a String");
        if self.conditional {
            write!(request, "If-None-Match: {}\r\n", origin::ETAG).expect("a String");
        }
        request.push_str("\r\n");
        request
    }

    /// Requests without end.
    pub fn requests<'d>(&self, draws: &'d [u32]) -> Requests<'d> {
        let path = match self.paths {
            Paths::One(path) => path.to_owned(),
            Paths::New => "/new/@".to_owned(),
            Paths::Zipf => "/zipf/@".to_owned(),
        };
        let request = self.request(&path);
        let (before, after) = request.split_once('@').unwrap_or((&request, ""));
        let numbers = match self.paths {
            Paths::One(_) => Numbers::None,
            Paths::New => Numbers::New(0),
            Paths::Zipf => Numbers::Drawn(draws, 0),
        };
        Requests {
            before: before.into(),
            after: after.into(),
            numbers,
            request: request.clone().into_bytes(),
        }
    }
}

enum Numbers<'d> {
    None,
    New(u64),
    Drawn(&'d [u32], usize),
}

/// Requests without end, for one server.
pub struct Requests<'d> {
    before: String,
    after: String,
    numbers: Numbers<'d>,
    request: Vec<u8>,
}

impl Requests<'_> {
    /// The bytes of the next one.
    pub fn next(&mut self) -> &[u8] {
        let number = match &mut self.numbers {
            Numbers::None => return &self.request,
            Numbers::New(next) => {
                *next += 1;
                *next
            }
            Numbers::Drawn(draws, next) => {
                *next = (*next + 1) % draws.len();
                u64::from(draws[*next])
            }
        };
        self.request.clear();
        self.request.extend_from_slice(self.before.as_bytes());
        self.request.extend_from_slice(number.to_string().as_bytes());
        self.request.extend_from_slice(self.after.as_bytes());
        &self.request
    }
}

/// Ranks of objects as visitors would ask for them; the same in every run.
pub fn draws() -> Vec<u32> {
    let mut sum = 0.0;
    let cumulated: Vec<f64> = (1..=OBJECTS)
        .map(|rank| {
            sum += (rank as f64).powf(-EXPONENT);
            sum
        })
        .collect();
    // xorshift64*, with a seed of its author.
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(2_685_821_657_736_338_717) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut draw = || {
        let at = random() * sum;
        cumulated.partition_point(|below| *below < at) as u32
    };
    (0..DRAWS).map(|_| draw()).collect()
}
