//! `rowcast install` and `rowcast uninstall`.

use clap::Parser;

use crate::{schema, server::Server, tail::say};

/// Install the schema `rowcast` in a database, or upgrade it.
///
/// Can be run again. No superuser is needed, only the right to create a schema; the same role
/// installs, upgrades and watches. What is being watched stays so.
#[derive(Parser)]
pub struct Install {
    #[command(flatten)]
    server: Server,

    /// Give this role, which must exist, what the listener needs, and no more.
    #[arg(long, env = "ROWCAST_LISTENER_ROLE", value_name = "NAME")]
    listener_role: Option<String>,
}

impl Install {
    /// Does it.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut client = self.server.connect().await?;
        let version = schema::VERSION;
        if schema::has_a_role_of_its_name(&client).await? {
            say(
                "there is a role rowcast: what it makes without naming a schema goes to the schema rowcast from now on; \
                 to avoid that: alter role rowcast set search_path = public",
            );
        }
        if schema::is_superuser(&client).await? {
            say(
                "this role is a superuser: the owner of a watched table can then become one too, by a cast to json that \
                 acts when a change is captured; to avoid that, uninstall, and install as an ordinary role",
            );
        }
        match schema::install(&mut client, self.listener_role.as_deref()).await? {
            None => say(&format!("installed version {version} of the schema rowcast; next: rowcast watch TABLE")),
            Some(before) if before < version => {
                say(&format!("upgraded the schema rowcast from version {before} to {version}"))
            }
            Some(_) => {
                say(&format!("the schema rowcast has version {version} already; its functions were written anew"))
            }
        }
        Ok(())
    }
}

/// Take the schema `rowcast` out of a database: the log, what is watched, and all triggers.
///
/// Clients that follow watched tables get no more changes. Nothing stays behind.
#[derive(Parser)]
pub struct Uninstall {
    #[command(flatten)]
    server: Server,
}

impl Uninstall {
    /// Does it.
    pub async fn run(self) -> anyhow::Result<()> {
        match schema::uninstall(&self.server.connect().await?).await? {
            true => say("the schema rowcast is gone, and all triggers with it"),
            false => say("there is no schema rowcast"),
        }
        Ok(())
    }
}
