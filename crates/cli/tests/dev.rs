//! `rowcast dev` as a newcomer uses it: an empty folder, one command.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

const ROWCAST: &str = env!("CARGO_BIN_EXE_rowcast");

struct Dev {
    process: Child,
    port: u16,
    /// The folder of its socket, where its data are too.
    home: String,
}

impl Dev {
    fn start(folder: &Path, flags: &[&str]) -> Self {
        let mut process = Command::new(ROWCAST)
            .arg("dev")
            .args(flags)
            .current_dir(folder)
            .env_remove("DATABASE_URL")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut port, mut home) = (0, String::new());
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("http://localhost:") {
                port = if port == 0 { rest.trim_end_matches('/').parse().unwrap() } else { port };
            }
            if let Some((_, rest)) = line.split_once("psql -h ") {
                home = rest.split(' ').next().unwrap().into();
            }
            if line.contains("Ctrl-C stops it") {
                break;
            }
        }
        assert!(port > 0, "it says where it is");
        Self { process, port, home }
    }

    fn post(&self, path: &str, body: &str) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        );
        write!(socket, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    fn tail(&self, flags: &[&str]) -> Child {
        let url = format!("ws://127.0.0.1:{}", self.port);
        Command::new(ROWCAST)
            .args(["tail", "--url", &url])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let ended = self.process.wait().unwrap();
        assert!(ended.success(), "{ended}");
        assert!(!Path::new(&self.home).join("data/postmaster.pid").exists(), "its PostgreSQL is stopped");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // A test that failed half-way leaves nothing behind either.
        drop(self.process.kill());
        if let Some(pid) = std::fs::read_to_string(Path::new(&self.home).join("data/postmaster.pid"))
            .ok()
            .and_then(|text| rustix::process::Pid::from_raw(text.lines().next()?.parse().ok()?))
        {
            rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap_or_default();
        }
        if self.home.starts_with("/var/lib/rowcast-dev-") {
            drop(std::fs::remove_dir_all(&self.home));
        }
    }
}

/// Waits for a line of the tail's standard error that holds `what`.
fn until_said(tail: &mut Child, what: &str) -> BufReader<std::process::ChildStderr> {
    let mut said = BufReader::new(tail.stderr.take().unwrap());
    let mut line = String::new();
    while said.read_line(&mut line).unwrap() > 0 {
        if line.contains(what) {
            return said;
        }
        line.clear();
    }
    panic!("it never said '{what}'");
}

#[test]
fn one_command_in_an_empty_folder_shows_a_row_in_the_terminal_and_again_the_next_day() {
    let folder = tempfile::tempdir().unwrap();
    let mut days = Vec::new();
    for day in 1..=2 {
        let mut dev = Dev::start(folder.path(), &[]);
        let mut tail = dev.tail(&["sensor_updates", "--json", "--count", "1"]);
        let said = until_said(&mut tail, "live from");
        let answer = dev.post("/api/sensors/", r#"{"sensor_id":"s1","value":25.5}"#);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        assert!(answer.contains(&format!("\"id\":{day},")), "the rows of the day before are kept: {answer}");
        let output = tail.wait_with_output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && line.contains(r#""sensor_id" : "s1""#) && line.contains(r#""cursor":""#),
            "{line}"
        );
        drop(said);
        dev.stop();
        days.push(dev);
    }
}

#[test]
fn a_second_dev_takes_the_next_port() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut one = Dev::start(folders[0].path(), &[]);
    let mut two = Dev::start(folders[1].path(), &[]);
    assert_ne!(one.port, two.port);
    let inspector = two.get("/inspect/api/overview");
    assert!(inspector.starts_with("HTTP/1.1 200"), "each can be looked into: {inspector}");
    one.stop();
    two.stop();
}

#[test]
fn a_topic_that_does_not_exist_is_an_error_that_names_those_that_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(folder.path(), &["--channels", "orders"]);
    let output = dev.tail(&["ordres"]).wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("ordres") && said.contains("orders"), "{said}");
    dev.stop();
}

#[test]
fn a_setting_that_cannot_be_used_ends_with_code_2() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rowcast.toml"), "[listener]\nchanels = []\n").unwrap();
    let run = |arguments: &[&str]| Command::new(ROWCAST).args(arguments).current_dir(folder.path()).output().unwrap();
    for (arguments, says) in [
        (&["dev"][..], "chanels"),
        (&["dev", "--config", "none.toml"], "none.toml"),
        (&["tail", "a", "--url", "ftp://x"], "--url"),
    ] {
        let output = run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(says), "{said}");
    }
}
