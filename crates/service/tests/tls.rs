//! TLS to a real PostgreSQL, with certificates made by openssl.

use std::{path::Path, process::Command};

use e2e::postgres::{Durability, PostgresServer};
use service::postgres::PostgresSettings;
use tempfile::TempDir;

/// Whether a connection string leads to an encrypted connection, or why to none.
async fn encrypted(string: &str) -> Result<bool, String> {
    let settings = PostgresSettings::parse("--database-url", string, "test").map_err(|e| e.to_string())?;
    let (client, connection) = settings.connect().await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    Ok(client.query_one(sql, &[]).await.map_err(|e| e.to_string())?.get(0))
}

#[tokio::test]
async fn sslmode_means_what_it_means_in_libpq() {
    let folder = tempfile::Builder::new().prefix("rowcast-tls-").tempdir().unwrap();
    authority(&folder, "ours");
    authority(&folder, "other");
    certificate(&folder);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (certificate, key) =
        (format!("ssl_cert_file={}", path("server.crt")), format!("ssl_key_file={}", path("server.key")));
    let postgres = PostgresServer::start_with(Durability::Fast, &["ssl=on", &certificate, &key]).await.unwrap();
    let (port, ours, other) = (postgres.port(), path("ours.crt"), path("other.crt"));
    let to = async |host: &str, rest: &str| encrypted(&format!("host={host} port={port} user=postgres {rest}")).await;

    assert_eq!(to("localhost", "sslmode=disable").await, Ok(false));
    assert_eq!(to("localhost", "").await, Ok(true));
    assert_eq!(to("127.0.0.1", "sslmode=require").await, Ok(true));
    assert_eq!(to("127.0.0.1", &format!("sslmode=require sslrootcert={ours}")).await, Ok(true));
    assert_eq!(to("127.0.0.1", &format!("sslmode=verify-ca sslrootcert={ours}")).await, Ok(true));
    assert_eq!(to("localhost", &format!("sslmode=verify-full sslrootcert={ours}")).await, Ok(true));
    let url = format!("postgres://postgres@localhost:{port}/postgres?sslrootcert={ours}&sslmode=verify-full");
    assert_eq!(encrypted(&url).await, Ok(true));
    assert_eq!(to(&postgres.socket_folder().display().to_string(), "sslmode=require").await, Ok(false));

    for (host, rest, says) in [
        ("127.0.0.1", format!("sslmode=verify-full sslrootcert={ours}"), "not valid for name"),
        ("localhost", format!("sslmode=verify-full sslrootcert={other}"), "UnknownIssuer"),
        ("localhost", format!("sslmode=verify-ca sslrootcert={other}"), "UnknownIssuer"),
        ("localhost", format!("sslmode=require sslrootcert={other}"), "UnknownIssuer"),
    ] {
        let refused = to(host, &rest).await.unwrap_err();
        assert!(refused.contains(says), "{host} {rest}: {refused}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let postgres = PostgresServer::shared().await.unwrap();
    let to = async |mode: &str| encrypted(&format!("{}?sslmode={mode}", postgres.url("postgres"))).await;
    assert_eq!(to("prefer").await, Ok(false));
    assert!(to("require").await.unwrap_err().contains("does not support TLS"));
}

#[tokio::test]
async fn of_several_hosts_the_first_that_fits_is_taken() {
    let postgres = PostgresServer::shared().await.unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (silent, port) = (silent.local_addr().unwrap().port(), postgres.port());
    // The first refuses, the second accepts and never says anything.
    let hosts = format!("127.0.0.1:1,127.0.0.1:{silent},127.0.0.1:{port}");
    let url = format!("postgres://postgres@{hosts}/postgres?target_session_attrs=read-write");
    assert_eq!(encrypted(&url).await, Ok(false));
}

fn authority(folder: &TempDir, name: &str) {
    let subject = format!("/CN={name}");
    let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
    let make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", &subject];
    openssl(folder.path(), &[&make[..], &["-keyout", &key, "-out", &certificate]].concat());
}

fn certificate(folder: &TempDir) {
    std::fs::write(folder.path().join("names"), "subjectAltName=DNS:localhost\n").expect("a file");
    let ask = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "server.key"];
    openssl(folder.path(), &[&ask[..], &["-out", "server.csr"]].concat());
    let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ours.crt", "-CAkey", "ours.key", "-CAcreateserial"];
    openssl(folder.path(), &[&sign[..], &["-days", "2", "-extfile", "names", "-out", "server.crt"]].concat());
    // The server reads it as its own user, and only if nobody else can.
    run(Command::new("chmod").arg("600").arg(folder.path().join("server.key")));
    run(Command::new("chmod").arg("711").arg(folder.path()));
    if std::fs::metadata("/proc/self").is_ok_and(|this| std::os::unix::fs::MetadataExt::uid(&this) == 0) {
        run(Command::new("chown").arg("postgres").arg(folder.path().join("server.key")));
    }
}

fn openssl(folder: &Path, arguments: &[&str]) {
    run(Command::new("openssl").args(arguments).current_dir(folder));
}

fn run(command: &mut Command) {
    let output = command.output().expect("openssl is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
