//! A core that sends back what it gets, does what it is told, and tells what it saw.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use tokio::sync::mpsc;

use crate::{
    config::{
        Rate,
        sip::{ListenAddress, Listener, Role, SipLimits},
    },
    sip::{
        command::{Command, Destination, Input},
        flow::{Flow, ListenerId, Transport},
        time::Time,
        transport::{Engine, Handle, Local, Options, Place, start},
    },
};

/// What a test waits for before it says that it will not come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a test asks of the core.
pub enum Ask {
    /// It needs this connection, or no longer.
    Use(Option<Flow>),
    Do(Command),
    /// A tick at this time.
    Wake(Time),
}

/// What the core saw.
#[derive(Debug)]
pub enum Saw {
    Input(Input),
    Tick(Time),
}

pub struct Echo {
    saw: mpsc::UnboundedSender<Saw>,
    wake: Option<Time>,
    used: Option<Flow>,
}

impl Engine for Echo {
    type Call = Ask;

    fn input(&mut self, input: Input, _: Time, out: &mut Vec<Command>) {
        if let Input::Received { flow, bytes, .. } = &input
            && !bytes.starts_with(b"SILENT")
        {
            out.push(Command::Send {
                to: Destination::Flow(*flow),
                bytes: bytes.clone(),
                ticket: None,
            });
        }
        let _ = self.saw.send(Saw::Input(input));
    }

    fn next(&self) -> Option<Time> {
        self.wake
    }

    fn tick(&mut self, now: Time, _: &mut Vec<Command>) {
        self.wake = None;
        let _ = self.saw.send(Saw::Tick(now));
    }

    fn uses(&self, flow: &Flow) -> bool {
        self.used == Some(*flow)
    }

    fn call(&mut self, call: Ask, _: Time, out: &mut Vec<Command>) {
        match call {
            Ask::Use(flow) => self.used = flow,
            Ask::Do(command) => out.push(command),
            Ask::Wake(time) => self.wake = Some(time),
        }
    }
}

/// A shell with that core, and what it sees.
pub struct Lab {
    pub handle: Handle<Ask>,
    pub locals: Vec<Local>,
    saw: mpsc::UnboundedReceiver<Saw>,
}

impl Lab {
    pub async fn start(options: Options) -> Lab {
        Lab::try_start(options).await.expect("the shell starts")
    }

    pub async fn try_start(options: Options) -> Result<Lab> {
        let (sender, saw) = mpsc::unbounded_channel();
        let make = move |_: &[Local], _: Time| {
            Ok(Echo {
                saw: sender,
                wake: None,
                used: None,
            })
        };
        let running = start(options, make)?;
        let locals = running.handle.locals().await?;
        Ok(Lab {
            handle: running.handle,
            locals,
            saw,
        })
    }

    /// Where a listener is.
    pub fn at(&self, listener: u16) -> SocketAddr {
        let local = self.locals.iter().find(|local| local.listener == ListenerId(listener));
        local.and_then(|local| local.address).expect("it is bound")
    }

    pub async fn tell(&self, command: Command) {
        self.handle.call(Ask::Do(command)).await.expect("the shell runs");
    }

    pub async fn saw(&mut self) -> Saw {
        let saw = tokio::time::timeout(PATIENCE, self.saw.recv()).await;
        saw.expect("the core sees something").expect("the shell runs")
    }

    /// The next input.
    pub async fn input(&mut self) -> Input {
        match self.saw().await {
            Saw::Input(input) => input,
            Saw::Tick(at) => panic!("an input was expected, there was a tick at {at:?}"),
        }
    }

    /// What `wanted` makes of an input that is there already, if it makes something of one; others are passed over.
    pub fn glance<T>(&mut self, wanted: impl Fn(&Input) -> Option<T>) -> Option<T> {
        std::iter::from_fn(|| self.saw.try_recv().ok()).find_map(|saw| match saw {
            Saw::Input(input) => wanted(&input),
            Saw::Tick(_) => None,
        })
    }

    /// The first input that `wanted` makes something of; others are passed over.
    pub async fn wait<T>(&mut self, wanted: impl Fn(&Input) -> Option<T>) -> T {
        loop {
            if let Saw::Input(input) = self.saw().await
                && let Some(found) = wanted(&input)
            {
                return found;
            }
        }
    }
}

pub fn limits() -> SipLimits {
    SipLimits {
        rate_per_source: Rate {
            count: 100,
            per: Duration::from_secs(1),
        },
        burst_per_source: 200,
        connections: 100,
        connections_per_source: 50,
        idle: Duration::from_secs(120),
        message_time: Duration::from_secs(10),
        message_size: 65_535,
        transactions: 100,
    }
}

pub fn listener(transport: Transport, address: ListenAddress) -> Listener {
    Listener {
        transport,
        address,
        port: 0,
        advertise: None,
        role: Role::Proxy,
    }
}

/// Listeners on free ports of 127.0.0.1, numbered in this order.
pub fn options(transports: &[Transport]) -> Options {
    let place = |(i, transport): (usize, &Transport)| Place {
        id: ListenerId(i as u16),
        listener: listener(*transport, ListenAddress::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST))),
        found: None,
    };
    Options {
        listeners: transports.iter().enumerate().map(place).collect(),
        limits: limits(),
        tls: None,
        // Nobody answers there, so nothing leaves the machine.
        dns: vec![SocketAddr::from(([127, 0, 0, 1], 9))],
    }
}
