//! Where both programs find what they are told: arguments, then variables, then a file, then
//! defaults.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/mod.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{cloud_node, edge_node, run, stderr, stdout};
use tempfile::TempDir;

/// Both programs, each with the beginning of its variables.
fn programs() -> [(PathBuf, &'static str); 2] {
    [(edge_node(), "EDGE"), (cloud_node(), "CLOUD")]
}

/// A command of `program` in an environment without variables.
fn serve(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.env_clear().arg("serve").args(args);
    command
}

fn page(command: &mut Command) -> String {
    let output = run(command.arg("--print-config"));
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

/// The settings on a page: the value and where it is from; neither for what is not set.
fn settings(page: &str) -> BTreeMap<String, Option<(String, String)>> {
    let setting = |line: &str| match line.strip_prefix("# ") {
        Some(unset) => (unset.strip_suffix(" is not set").unwrap().to_owned(), None),
        None => {
            let (key, rest) = line.split_once(" = ").unwrap();
            let (value, source) = rest.split_once("  # ").unwrap();
            (key.to_owned(), Some((value.to_owned(), source.to_owned())))
        }
    };
    page.lines().map(setting).collect()
}

/// The flags that the program's help shows.
fn flags(program: &Path) -> Vec<(String, String)> {
    let help = stdout(&run(&mut serve(program, &["--help"])));
    let long = |line: &str| {
        let word = line
            .split_whitespace()
            .find(|word| word.starts_with("--"))?;
        let end = |char: char| !char.is_ascii_alphanumeric() && char != '-';
        let name = word[2..].split(end).next()?;
        Some(name.to_owned())
    };
    // What they do is written further to the right.
    let starts = |line: &&str| line.starts_with("  -") || line.starts_with("      --");
    let lines: Vec<_> = help.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| starts(line)) {
        let until = lines[index + 1..].iter().position(starts);
        let until = until.map_or(lines.len(), |count| index + 1 + count);
        found.push((long(line).unwrap(), lines[index..until].concat()));
    }
    found
}

#[test]
fn every_flag_has_a_variable_and_a_key() {
    for (program, prefix) in programs() {
        let keys = settings(&page(&mut serve(&program, &[])));
        let flags = flags(&program);
        assert!(flags.len() > 10, "{flags:?}");
        for (flag, help) in flags {
            if ["help", "version", "print-config"].contains(&flag.as_str()) {
                continue;
            }
            let variable = format!("{prefix}_{}", flag.to_uppercase().replace('-', "_"));
            assert!(help.contains(&format!("[env: {variable}]")), "{help}");
            assert_eq!(keys.contains_key(&flag), flag != "config", "{flag}");
        }
    }
}

#[test]
fn what_is_printed_can_be_given_back() {
    let folder = TempDir::new().unwrap();
    for (program, prefix) in programs() {
        let file = folder.path().join(format!("{prefix}.toml"));
        // Everything that has no default is set to something that it takes.
        let mut text = String::new();
        for (key, setting) in settings(&page(&mut serve(&program, &[]))) {
            let value = match (setting, key.as_str()) {
                (Some((value, _)), _) if value != "[]" => value,
                (_, "allowed-origin") => "\"https://a.example\"".to_owned(),
                (_, "model-shape") => "\"tiny\"".to_owned(),
                (_, "metrics-listen" | "peer-listen" | "handover-listen" | "worker-listen") => {
                    "\"127.0.0.1:1\"".to_owned()
                }
                (_, "handover-strategy") => "\"token\"".to_owned(),
                (_, _) => "\"1\"".to_owned(),
            };
            text += &format!("{} = {value}\n", key.replace('-', "_"));
        }
        std::fs::write(&file, &text).unwrap();
        let args = ["--config", file.to_str().unwrap()];
        let once = page(&mut serve(&program, &args));
        for (key, setting) in settings(&once) {
            let (_, source) = setting.unwrap_or_else(|| panic!("{key}: {once}"));
            assert!(
                source.contains(&format!("{prefix}.toml")),
                "{key}: {source}"
            );
        }
        std::fs::write(&file, &once).unwrap();
        let twice = page(&mut serve(&program, &args));
        let values = |page: &str| -> Vec<_> {
            let settings = settings(page).into_iter();
            settings.map(|(key, set)| (key, set.unwrap().0)).collect()
        };
        assert_eq!(values(&once), values(&twice));
    }
}

#[test]
fn arguments_win_over_variables_and_those_over_the_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("edge.toml");
    let text = "port = 1\nlocal = true\ncloud-prompt = [\"a\", \"b\"]\nverbose = 1\n";
    std::fs::write(&file, text).unwrap();
    let edge = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = serve(&edge_node(), args);
        command.env("EDGE_CONFIG", &file);
        command.envs(variables.iter().copied());
        let mut found = settings(&page(&mut command));
        move |key: &str| found.remove(key).flatten().unwrap()
    };
    let (value, source) = edge(&[], &[])("port");
    assert_eq!(value, "1");
    assert!(source.ends_with("edge.toml\" line 1"), "{source}");
    let is = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    let variables = [
        ("EDGE_PORT", "2"),
        ("EDGE_LOCAL", "0"),
        ("EDGE_VERBOSE", "3"),
    ];
    let mut set = edge(&[], &variables);
    assert_eq!(set("port"), is("2", "environment EDGE_PORT"));
    assert_eq!(set("local"), is("false", "environment EDGE_LOCAL"));
    assert_eq!(set("verbose"), is("3", "environment EDGE_VERBOSE"));
    assert_eq!(set("cloud-prompt").0, "[\"a\", \"b\"]");
    assert_eq!(set("host"), is("\"127.0.0.1\"", "default"));
    let mut set = edge(&["--port", "3", "--cloud-prompt", "c,d", "-vv"], &variables);
    assert_eq!(set("port"), is("3", "command line"));
    assert_eq!(set("cloud-prompt"), is("[\"c\", \"d\"]", "command line"));
    assert_eq!(set("verbose"), is("2", "command line"));
}

#[test]
fn a_wrong_value_is_named_with_where_it_came_from() {
    let refused = |program: &Path, args: &[&str], variable: (&str, &str)| {
        let mut command = serve(program, args);
        let output = run(command.env(variable.0, variable.1).arg("--print-config"));
        assert_eq!(output.status.code(), Some(2));
        stderr(&output)
    };
    let edge = edge_node();
    for variable in [("EDGE_PORT", "abc"), ("EDGE_LOCAL", "maybe")] {
        let said = refused(&edge, &[], variable);
        assert!(
            said.contains(variable.0) && said.contains(variable.1),
            "{said}"
        );
    }
    let said = refused(&cloud_node(), &[], ("CLOUD_STORE_MIB", "0"));
    assert!(said.contains("CLOUD_STORE_MIB"), "{said}");
    for args in [&["--port", "abc"][..], &["--port=abc"]] {
        let said = refused(&edge, args, ("EDGE_PORT", "1"));
        assert!(
            said.contains("--port <PORT>") && !said.contains("EDGE_PORT"),
            "{said}"
        );
    }
}

#[test]
fn defaults_are_printed_as_they_come_out_here() {
    for ((program, _), node) in programs().into_iter().zip(["edge", "cloud"]) {
        let mut command = serve(&program, &[]);
        command
            .env("HOME", "/home/ada")
            .env("XDG_CACHE_HOME", "/var/tmp/c");
        let found = settings(&page(&mut command));
        let is = |key: &str, value: &str| {
            let expected = (format!("{value:?}"), "default".to_owned());
            assert_eq!(found[key].as_ref(), Some(&expected), "{key}");
        };
        is("identity", &format!("/home/ada/.config/edgeprompt/{node}"));
        if node == "edge" {
            is("cache-dir", "/var/tmp/c/edgeprompt");
            is("remembered", "/var/tmp/c/edgeprompt/prompts");
        }
    }
}

#[test]
fn a_wrong_key_is_named_with_its_file_and_line() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("edge.toml");
    std::fs::write(&file, "host = \"::1\"\nprot = \"my secret\"\n").unwrap();
    let refused = |file: &Path| -> Output {
        run(serve(&edge_node(), &["--print-config", "--config"]).arg(file))
    };
    let output = refused(&file);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(
        said.contains("edge.toml:2: there is no key \"prot\": is \"port\" meant?"),
        "{said}"
    );
    assert!(!said.contains("my secret"));
    let absent = refused(&folder.path().join("absent.toml"));
    assert_eq!(absent.status.code(), Some(2));
    assert!(stderr(&absent).contains("absent.toml cannot be read"));
}

#[test]
fn completions_and_manuals_know_every_command() {
    let folder = TempDir::new().unwrap();
    for (program, prefix) in programs() {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = run(Command::new(&program).args(["completions", shell]));
            assert!(stdout(&script).contains("print-config"), "{shell}");
        }
        let written = run(Command::new(&program).arg("man").arg(folder.path()));
        assert!(written.status.success(), "{}", stderr(&written));
        let name = program.file_stem().unwrap().to_str().unwrap();
        let read = |page: &str| std::fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(read(&format!("{name}.1")).contains("completions"));
        let serve = read(&format!("{name}-serve.1"));
        assert!(serve.contains("print\\-config") && serve.contains(&format!("{prefix}_CONFIG")));
        let page = run(Command::new(&program).arg("man"));
        assert_eq!(stdout(&page), read(&format!("{name}.1")));
    }
}

#[test]
fn the_cache_that_a_file_names_is_the_one_that_is_looked_after() {
    let folder = TempDir::new().unwrap();
    let id = "ab".repeat(32);
    let domain = folder.path().join("cache/segments/home");
    std::fs::create_dir_all(&domain).unwrap();
    std::fs::write(domain.join(format!("{id}.segment")), "no segment").unwrap();
    let file = folder.path().join("edge.toml");
    let cache = folder.path().join("cache");
    let text = format!("cache-dir = {cache:?}\nport = 8001\n");
    std::fs::write(&file, text).unwrap();
    let kv = |config: &[&str]| {
        let mut command = Command::new(edge_node());
        command.env_clear().env("HOME", folder.path());
        run(command.args(["kv", "ls", "--json"]).args(config))
    };
    let listed = kv(&["--config", file.to_str().unwrap()]);
    assert!(stdout(&listed).contains(&id), "{}", stderr(&listed));
    assert_eq!(stdout(&kv(&[])), "[]\n");
    std::fs::write(&file, "prot = 1\n").unwrap();
    let refused = kv(&["--config", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
}
