use std::process::Command;

use crate::{
    connect::Hello,
    peers::{
        peer::{Peer, Way},
        place::Place,
    },
};

/// The Django recipe: uvicorn with one worker, channels-redis, and a listener process.
pub struct Django;

impl Peer for Django {
    fn folder(&self) -> &'static str {
        "django"
    }

    fn name(&self) -> &'static str {
        "Django, Channels"
    }

    fn commands(&self, place: &Place) -> anyhow::Result<Vec<Command>> {
        let (python, port) = (place.installed("venv/bin/python"), place.port().to_string());
        let command = |arguments: &[&str]| {
            let mut command = Command::new(&python);
            command.args(arguments).env("PYTHONPATH", place.installed("")).env("REDIS_URL", place.redis_url());
            command
        };
        // Its pings come every 20 s.
        let quiet = ["--log-level", "error", "--ws-ping-interval", "3600", "--ws-ping-timeout", "3600"];
        let uvicorn = ["-m", "uvicorn", "app:application", "--host", "127.0.0.1", "--port", &port, "--backlog", "4096"];
        Ok(vec![command(&[&uvicorn[..], &quiet].concat()), command(&["-m", "listen_sensor_updates"])])
    }

    fn hello(&self) -> Hello {
        Hello::plain("/ws/sensors/")
    }

    fn way(&self) -> Way {
        Way::Redis
    }
}
