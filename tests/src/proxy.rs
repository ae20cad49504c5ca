use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::ports::Port;

/// A TCP proxy on 127.0.0.1 that can be made to fail in the ways that networks do. It ends with the
/// handle.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    Stall,
    Refuse,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    target: u16,
    /// How often all connections were cut.
    cuts: u64,
}

impl Proxy {
    /// Forwards to a port of 127.0.0.1.
    pub async fn to(target: u16) -> anyhow::Result<Self> {
        let port = Port::take()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).await?;
        let (state, watched) = watch::channel(State { mode: Mode::Forward, target, cuts: 0 });
        let accepting = tokio::spawn(accept(listener, port.number(), watched));
        Ok(Self { port, state, accepting })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// New connections are forwarded, as at the start.
    pub fn forward(&self) {
        self.state.send_modify(|state| state.mode = Mode::Forward);
    }

    /// All connections stay open, but nothing passes any more, in either direction. New ones are
    /// accepted and get nothing either. What was stalled once stays so, as after a firewall that
    /// forgot the connection.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.mode = Mode::Stall);
    }

    /// Closes all connections.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Closes all connections, and refuses new ones.
    pub fn refuse(&self) {
        self.state.send_modify(|state| *state = State { mode: Mode::Refuse, cuts: state.cuts + 1, ..*state });
    }

    /// Closes all connections; new ones go to another port of 127.0.0.1, as after a failover.
    pub fn switch_to(&self, target: u16) {
        self.state.send_modify(|state| *state = State { target, cuts: state.cuts + 1, ..*state });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, mut state: watch::Receiver<State>) {
    let mut listener = Some(listener);
    loop {
        if state.borrow_and_update().mode == Mode::Refuse {
            listener = None;
            if state.changed().await.is_err() {
                return;
            }
            continue;
        }
        if listener.is_none() {
            listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.ok();
        }
        let Some(open) = &listener else {
            tokio::task::yield_now().await;
            continue;
        };
        tokio::select! {
            accepted = open.accept() => {
                if let Ok((client, _)) = accepted {
                    tokio::spawn(carry(client, state.clone()));
                }
            }
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

/// One connection, until it ends or is cut.
async fn carry(mut client: TcpStream, mut state: watch::Receiver<State>) {
    let State { target, cuts, .. } = *state.borrow_and_update();
    let mut cut = state.clone();
    let cut = async move {
        // An error says that the proxy is gone.
        drop(cut.wait_for(|now| now.cuts != cuts).await);
    };
    let pass = async {
        let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
        drop((client.set_nodelay(true), server.set_nodelay(true)));
        let stalled = async {
            drop(state.wait_for(|now| now.mode == Mode::Stall).await);
        };
        tokio::select! {
            // In this order: of a connection that is stalled from its start nothing passes.
            biased;
            () = stalled => {}
            _ = copy_bidirectional(&mut client, &mut server) => return,
        }
        tokio::join!(swallow(&mut client), swallow(&mut server));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = pass => {}
        () = cut => {}
    }
}

async fn swallow(from: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 4096];
    while from.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
}
