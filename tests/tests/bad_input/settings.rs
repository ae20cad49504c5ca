//! What is wrong in rowcast.toml.

use e2e::process::Process;

const URL: [&str; 2] = ["--database-url", "postgres://nobody@127.0.0.1:1/nothing"];

#[tokio::test]
async fn what_is_wrong_in_rowcast_toml_ends_every_process_with_2_and_says_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rowcast.toml");
    for (text, says) in [
        ("[listener]\nchanels = ['a']", vec!["line 2", "chanels", "`channels`"]),
        ("[listner]\nchannels = ['a']", vec!["line 1", "listner", "`listener`"]),
        ("[listener]\nchannels = 'a'", vec!["line 2", "'a'", "sequence"]),
        ("[[endpoint]]\npath = 'ws/x/'\ntopics = ['a']", vec!["endpoint.path = 'ws/x/'", "/ws/orders/"]),
        (
            "[[endpoint]]\npath = '/rowcast'\ntopics = ['a']",
            vec!["endpoint.path = '/rowcast'", "does not serve itself"],
        ),
        ("[[endpoint]]\npath = '/x'\ntopics = ['a']\nwrap = 'date'", vec!["line 4", "date", "`data`"]),
        ("[[ingest]]\npath = '/x'\ntable = 't'", vec!["line 1", "columns"]),
        ("[listener", vec!["line 1"]),
    ] {
        std::fs::write(&file, text).unwrap();
        for program in ["listener", "gateway"] {
            let config = file.display().to_string();
            let arguments = [&URL[..], &["--config", &config]].concat();
            let mut process = Process::start(program, &arguments).unwrap();
            assert_eq!(process.ended().await.unwrap(), Some(2), "{program}: {text}");
            let log = process.log();
            assert!(log.contains(&config) && says.iter().all(|part| log.contains(part)), "{program}: {text}: {log}");
        }
    }
}
