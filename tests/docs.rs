//! What the documentation shows is run or parsed.

use std::path::{Path, PathBuf};

use clap::Parser;
use parvis::cli::Cli;

use crate::support::process::command;
use crate::support::{Directory, Origin, Parvis, Reply};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// The documents that show commands or YAML.
fn documents() -> Vec<String> {
    let docs = ["architecture", "cluster", "http-caching", "performance", "purging", "reliability", "safety"]
        .map(|name| format!("docs/{name}.md"));
    ["README.md", "CONTRIBUTING.md", "systemd/README.md"].map(str::to_owned).into_iter().chain(docs).collect()
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    text.split(&opening).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn every_yaml_block_is_a_usable_configuration() {
    let directory = Directory::new();
    let mut seen = 0;
    for document in documents() {
        for block in blocks(&read(&document), "yaml") {
            let file = directory.write("block.yaml", &block);
            let output = command(&["check", "-c", file.to_str().unwrap()], &[]);
            assert!(output.status.success(), "{document}: {}", String::from_utf8_lossy(&output.stderr));
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn every_command_exists() {
    let makefile = read("Makefile");
    for document in documents() {
        for line in blocks(&read(&document), "sh").iter().flat_map(|block| block.lines()) {
            let line = line.split(" #").next().unwrap().trim();
            let words: Vec<String> = words(line);
            let Some(program) = words.iter().find(|word| !word.contains('=')) else { continue };
            match program.rsplit('/').next().unwrap() {
                "parvis" => {
                    let parsed =
                        Cli::try_parse_from(&words[words.iter().position(|word| word == program).unwrap()..]);
                    assert!(parsed.is_ok(), "{document}: {line}: {}", parsed.unwrap_err());
                }
                "make" => {
                    let target = words.get(1).unwrap();
                    assert!(makefile.contains(&format!("\n{target}:")), "{document}: no target `{target}`");
                }
                "curl" | "export" | "cargo" | "git" | "systemctl" | "install" | "sudo" | "bash"
                | "scripts" => {}
                script if root().join(program).exists() => drop(script.to_owned()),
                other => panic!("{document}: `{other}` is checked by nobody: {line}"),
            }
        }
    }
}

/// Snippets for CI, and answers of the API.
#[test]
fn snippets_for_ci_and_answers_are_what_parvis_takes_and_gives() {
    let text = read("docs/purging.md");
    let mut commands = 0;
    for block in blocks(&text, "yml") {
        serde_yaml::from_str::<serde_json::Value>(&block).unwrap();
        let whole = block.replace("\\\n", " ").replace('"', "");
        for line in whole.lines().filter_map(|line| line.find("parvis purge").map(|at| &line[at..])) {
            let parsed = Cli::try_parse_from(line.split_whitespace());
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            commands += 1;
        }
    }
    assert_eq!(commands, 2);
    for block in blocks(&text, "json") {
        let is_record = block.contains("\"cause\"");
        let read = match is_record {
            true => serde_json::from_str::<parvis::observe::audit::Entry>(&block).map(drop),
            false => serde_json::from_str::<parvis::admin::purge::Answer>(&block).map(drop),
        };
        assert!(read.is_ok(), "{block}: {}", read.unwrap_err());
    }
}

/// What Compose starts: commands that exist, and a configuration that can be used.
#[test]
fn the_compose_file_starts_what_there_is() {
    let blocks = blocks(&read("docs/cluster.md"), "yml");
    let [compose] = &blocks[..] else { panic!("one Compose file") };
    let compose: serde_json::Value = serde_yaml::from_str(compose).unwrap();
    let names = |key: &str| compose[key].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let services = names("services");
    assert_eq!(services, ["app", "parvis-1", "parvis-2", "redis"]);
    let one = &compose["services"]["parvis-1"];
    for needed in one["depends_on"].as_array().unwrap() {
        assert!(services.iter().any(|service| needed == service), "{needed}");
    }
    let (source, target) = (&one["configs"][0]["source"], one["configs"][0]["target"].as_str().unwrap());
    assert!(read("Dockerfile").contains(target), "the image reads {target}");
    let config = compose["configs"][source.as_str().unwrap()]["content"].as_str().unwrap();
    let directory = Directory::new();
    // Compose makes one `$` of two.
    let file = directory.write("config.yaml", &config.replace("$$", "$"));
    let environment = [("PARVIS_TOKEN", "change-me-change-me"), ("REDIS_URL", "redis://redis:6379/0")];
    let output = command(&["check", "-c", file.to_str().unwrap()], &environment);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Splits a command line at spaces outside single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn the_files_that_documents_link_to_exist() {
    let link = regex::Regex::new(r"\]\(([^)#]+)\)").unwrap();
    for document in documents().into_iter().chain(["CHANGELOG.md".to_owned()]) {
        let directory = root().join(&document).parent().unwrap().to_owned();
        for target in link.captures_iter(&read(&document)).map(|found| found[1].to_owned()) {
            if !target.contains("://") {
                assert!(directory.join(&target).exists(), "{document}: {target}");
            }
        }
    }
}

/// Puts a shown configuration on free ports and in front of a scripted origin.
fn start(yaml: &str, origin: &Origin) -> Parvis {
    let mut yaml = yaml.replace("127.0.0.1:8000", &origin.address.to_string());
    yaml = match yaml.contains("listen: \":8080\"") {
        true => yaml
            .replace("listen: \":8080\"", "listen: {listen}")
            .replace("listen: 127.0.0.1:9180", "listen: {admin}"),
        false => format!("listen: {{listen}}\n{}", yaml.replace("admin:\n", "admin:\n  listen: {admin}\n")),
    };
    Parvis::start(&yaml)
}

#[test]
fn the_configuration_of_the_readme_does_what_it_says() {
    let origin = Origin::start();
    for path in ["/products/7", "/api/products/7", "/", "/about"] {
        origin
            .on(path, Reply::ok("x").field("Cache-Control", if path == "/" { "max-age=60" } else { "x=1" }));
    }
    let parvis = start(&blocks(&read("README.md"), "yaml")[0], &origin);
    let get = |path: &str| parvis.client().get(path);
    for path in ["/products/7", "/api/products/7", "/"] {
        assert_eq!((get(path).verdict(), get(path).verdict()), ("miss", "hit"), "{path}");
    }
    assert_eq!(get("/products/8").cache_status(), "parvis; fwd=miss; stored");
    assert_eq!(
        (get("/products/8").status, get("/products/8").cache_status().as_str()),
        (404, "parvis; hit; ttl=30")
    );
    assert_eq!(get("/about").detail(), "no-ttl");
    assert_eq!(parvis.client().send("PUT", "/api/products/7", &[], b"").verdict(), "pass");
    for path in ["/products/7", "/api/products/7", "/"] {
        assert_eq!(get(path).verdict(), "miss", "{path}");
    }
}

#[test]
fn the_example_configuration_runs() {
    let origin = Origin::start();
    origin.on("/products/7", Reply::ok("x"));
    origin.on("/static/app.123.js", Reply::ok("x").field("Content-Type", "text/javascript"));
    let parvis = start(&read("config.example.yaml"), &origin);
    for path in ["/products/7", "/static/app.123.js"] {
        assert_eq!(
            (parvis.client().get(path).verdict(), parvis.client().get(path).verdict()),
            ("miss", "hit")
        );
    }
    let secret = "change-me-change-me";
    assert_eq!(parvis.admin("POST", "/purge", Some(secret), r#"{"tags": ["products"]}"#).status, 200);
    assert_eq!(parvis.client().get("/products/7").verdict(), "miss");
}

/// Every key of the schema, by writing out a configuration that has one of everything.
#[test]
fn the_example_configuration_shows_every_key() {
    use parvis::config::listener::{Certificate, Listener, Listeners};
    use parvis::config::schema::{Config, Removal, Route, Token, Upstream};
    use parvis::config::upstream::Server;
    let full = Config {
        upstreams: [("any".to_owned(), Upstream { servers: vec![Server::default()], ..Upstream::default() })]
            .into(),
        routes: vec![Route { purge_on_success: vec![Removal::default()], ..Route::default() }],
        admin: parvis::config::schema::Admin { tokens: vec![Token::default()], ..Default::default() },
        listen: Some(Listeners(vec![Listener { tls: vec![Certificate::default()], ..Listener::default() }])),
        ..Config::default()
    };
    let full = serde_json::to_value(full).unwrap();
    let text = read("config.example.yaml");
    let example: serde_json::Value = serde_yaml::from_str(&text).unwrap();
    let mut missing = Vec::new();
    compare(&full, &[&example], &mut PathBuf::new(), &mut missing);
    // What names a file of the operator's is commented out, so that the example can be tried.
    let commented: Vec<&str> = text.lines().filter(|line| line.trim_start().starts_with('#')).collect();
    missing.retain(|path| {
        let key = format!("{}: ", path.file_name().unwrap().display());
        let begins = |line: &&str| line.split([' ', '{', '-']).any(|word| word == key.trim());
        !commented.iter().any(begins)
    });
    assert!(missing.is_empty(), "not in config.example.yaml: {missing:#?}");
}

/// Notes the keys of `full` that none of `examples` has. The items of a list complete each other, and so do upstreams.
fn compare(
    full: &serde_json::Value,
    examples: &[&serde_json::Value],
    at: &mut PathBuf,
    missing: &mut Vec<PathBuf>,
) {
    use serde_json::Value;
    match full {
        Value::Object(keys) => {
            for (key, value) in keys {
                at.push(key);
                let next: Vec<&Value> = match key.as_str() {
                    // What only some routes need is shown there.
                    "cache_defaults" => examples.iter().flat_map(|example| caches(example)).collect(),
                    "any" => examples
                        .iter()
                        .filter_map(|example| example.as_object())
                        .flat_map(|map| map.values())
                        .collect(),
                    key => examples.iter().filter_map(|example| example.get(key)).collect(),
                };
                // A route's `cache` may leave out what `cache_defaults` shows.
                let shown_elsewhere = at.to_string_lossy().contains("routes/0/cache/");
                if next.is_empty() && !shown_elsewhere {
                    missing.push(at.clone());
                }
                compare(value, &next, at, missing);
                at.pop();
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                at.push(index.to_string());
                let next: Vec<&Value> = examples
                    .iter()
                    .filter_map(|example| example.as_array())
                    .flat_map(|items| items.iter())
                    .collect();
                compare(item, &next, at, missing);
                at.pop();
            }
        }
        _ => {}
    }
}

/// Every `cache` section of a configuration.
fn caches(config: &serde_json::Value) -> Vec<&serde_json::Value> {
    let routes = config.get("routes").and_then(|routes| routes.as_array());
    let of_routes = routes.into_iter().flatten().filter_map(|route| route.get("cache"));
    config.get("cache_defaults").into_iter().chain(of_routes).collect()
}

/// Whether a file defines a function of this name.
fn defines(file: &Path, name: &str) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {name}(")))
}

/// No behaviour without a test of its rule and one through the binary.
#[test]
fn every_line_of_the_caching_table_names_tests_that_exist() {
    let text = read("docs/http-caching.md");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| behaviour"));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> =
            row.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let [behaviour, section, rule, through_the_binary, status] = cells[..] else { panic!("{row}") };
        assert!(
            section.starts_with(|c: char| c.is_ascii_digit()) || section.starts_with("RFC "),
            "{behaviour}"
        );
        let known = ["yes", "no (", "option `", "stricter (", "stricter, option `"];
        assert!(known.iter().any(|word| status.starts_with(word)), "{behaviour}: {status}");
        let (module, name) = rule.rsplit_once("::").expect(rule);
        let places = ["rules", "store", "proxy"].map(|room| root().join("src").join(room).join(module));
        let is_defined = |place: &PathBuf| {
            [place.with_extension("rs"), place.join("mod.rs")].iter().any(|file| defines(file, name))
        };
        assert!(places.iter().any(is_defined), "{behaviour}: no {rule}");
        let (module, name) = through_the_binary.rsplit_once("::").expect(through_the_binary);
        let file = root().join(format!("tests/{}.rs", module.replace("::", "/")));
        assert!(defines(&file, name), "{behaviour}: no {through_the_binary}");
        // What is missing, or has to be asked for, has its reason below the table.
        if let Some((_, number)) = status.split_once('(') {
            let note = format!("\n{}. ", number.trim_end_matches(')'));
            assert!(text.contains(&note), "{behaviour}: no note {number}");
        }
        count += 1;
    }
    assert!(count > 50, "{count}");
}

/// Every fault in the table names one test that exists.
#[test]
fn every_fault_has_a_test() {
    let text = read("docs/reliability.md");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| fault "));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> =
            row.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let [fault, _, _, _, test] = cells[..] else { panic!("{row}") };
        let (module, name) = test.rsplit_once("::").expect(test);
        let file = root().join(format!("tests/{}.rs", module.replace("::", "/")));
        assert!(defines(&file, name), "{fault}: no {test}");
        count += 1;
    }
    assert!(count > 20, "{count}");
}

/// Every trouble of the shared Redis names tests that exist.
#[test]
fn every_trouble_of_the_shared_redis_has_a_test() {
    let text = read("docs/cluster.md");
    let is_test = |code: &&str| code.starts_with("peers::") || code.starts_with("shared::");
    let mut count = 0;
    for test in text.split('`').filter(is_test) {
        let (module, name) = test.rsplit_once("::").unwrap();
        let path = format!("tests/{}", module.replace("::", "/"));
        let files = [format!("{path}.rs"), format!("{path}/mod.rs")].map(|file| root().join(file));
        let file = files.iter().find(|file| file.exists()).expect(test);
        assert!(defines(file, name), "no {test}");
        count += 1;
    }
    assert!(count > 15, "{count}");
}
