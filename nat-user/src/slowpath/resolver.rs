//! The neighbour questions of the slow path, asked over netlink in a task of their own, one after the other.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::neighbours::NextHop;
use crate::net::Net;

/// A question.
#[derive(Debug)]
pub enum Ask {
    /// Have the kernel find out the address.
    Resolve(NextHop),
    /// Which of these does the kernel know?
    Poll(Vec<NextHop>),
}

/// Questions that wait; more are forgotten, and [`Ask::Poll`] or the next packet asks again.
const QUESTIONS: usize = 512;

/// Starts the task. It ends when the returned sender is dropped; known next hops go to `known`.
pub fn start(net: Arc<Net>, known: mpsc::Sender<NextHop>) -> mpsc::Sender<Ask> {
    let (ask, mut questions) = mpsc::channel(QUESTIONS);
    tokio::spawn(async move {
        while let Some(question) = questions.recv().await {
            match question {
                Ask::Resolve((ifindex, addr)) => {
                    if let Err(error) = net.resolve_neighbour(ifindex, Ipv4Addr::from(addr)).await {
                        tracing::debug!("{error:#}");
                    }
                }
                Ask::Poll(hops) => poll(&net, &hops, &known).await,
            }
        }
    });
    ask
}

async fn poll(net: &Net, hops: &[NextHop], known: &mpsc::Sender<NextHop>) {
    let mut interfaces: Vec<u32> = hops.iter().map(|(ifindex, _)| *ifindex).collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    for ifindex in interfaces {
        let list = match net.neighbours(ifindex).await {
            Ok(list) => list,
            Err(error) => {
                tracing::debug!("{error:#}");
                continue;
            }
        };
        for neighbour in list.iter().filter(|n| n.state.is_valid()) {
            let hop = (neighbour.ifindex, u32::from(neighbour.addr));
            if hops.contains(&hop) && known.send(hop).await.is_err() {
                return;
            }
        }
    }
}
