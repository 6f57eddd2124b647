//! The acts of the demo. Each returns one line for the summary.

use std::{fs, net::SocketAddrV4};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tests::{prelude::*, programs};

use super::{Stage, show, text_of, voice::Stream};

pub fn ping(stage: &mut Stage) -> Result<String> {
    let to = stage.lab.o(1).ip.to_string();
    // A router may drop the very first packet to a neighbour whose MAC address it does not know; sipnat's slow path does not.
    let text = stage.lab.h(1).run("ping", ["-c", "5", "-i", "0.2", "-W", "2", &to])?;
    show(&text);
    ensure!(text.contains(" 0% packet loss"), "packets were lost");
    Ok("5 of 5, the first one to a neighbour that nobody had resolved".into())
}

pub fn traceroute(stage: &mut Stage) -> Result<String> {
    let (lab, far) = (&stage.lab, stage.lab.far().ip.to_string());
    let text = lab
        .h(1)
        .run("traceroute", ["-n", "-q", "1", "-w", "3", "-m", "6", &far])?;
    show(&text);
    let router = lab.h(1).gateway.to_string();
    ensure!(text.contains(&router), "the router {router} is not among the hops");
    ensure!(
        text.lines().last().is_some_and(|line| line.contains(&far)),
        "the last hop is not {far}"
    );
    Ok(format!("{} hops", text.lines().count() - 1))
}

pub fn web(stage: &mut Stage) -> Result<String> {
    let page = "a page behind the NAT\n".repeat(20_000);
    fs::write(stage.files.path().join("page.txt"), &page)?;
    let server = programs::http_server(stage.lab.o(1), 80, stage.files.path())?;
    let url = format!("http://{}/page.txt", server.endpoint.ip());
    let text = stage
        .lab
        .h(1)
        .run("curl", ["--silent", "--show-error", "--fail", "--max-time", "20", &url])?;
    ensure!(text == page, "{} of {} bytes, or not the same", text.len(), page.len());
    let seen = server.child.log();
    let external = stage.lab.external(0).to_string();
    ensure!(seen.contains(&external), "the server did not see {external}: {seen}");
    Ok(format!("{} bytes of {url}; the server saw {external}", page.len()))
}

pub fn dns(stage: &mut Stage) -> Result<String> {
    let answer = stage.lab.far().ip;
    let server = programs::dnsmasq(stage.lab.o(2), &[("phone.example.test", answer)])?;
    let script = format!(
        "import socket,struct\n\
         s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.settimeout(10)\n\
         q=struct.pack('>6H',7,256,1,0,0,0)+b'\\x05phone\\x07example\\x04test\\0'+struct.pack('>2H',1,1)\n\
         s.sendto(q,('{}',53));r=s.recv(512);print(socket.inet_ntoa(r[-4:]))",
        server.endpoint.ip()
    );
    let text = stage.lab.h(2).run(programs::PYTHON, ["-c", &script])?;
    ensure!(text.trim() == answer.to_string(), "{} instead of {answer}", text.trim());
    Ok(format!("phone.example.test is {answer}"))
}

pub fn iperf(stage: &mut Stage) -> Result<String> {
    let server = programs::iperf3_server(stage.lab.o(1))?;
    let tcp = programs::iperf3_client(stage.lab.h(1), &server, &["-t", "3"])?;
    let rate = number(&tcp, "/end/sum_received/bits_per_second")? / 1e9;
    println!("   TCP: {rate:.2} Gbit/s received in 3 s");
    let udp = programs::iperf3_client(stage.lab.h(1), &server, &["-u", "-b", "50M", "-l", "1200", "-t", "2"])?;
    let lost = number(&udp, "/end/sum/lost_percent")?;
    println!("   UDP: 50 Mbit/s for 2 s, {lost:.2} % lost");
    ensure!(rate > 0.1, "TCP does not get through");
    ensure!(lost < 1.0, "{lost} % of the UDP datagrams were lost");
    Ok(format!(
        "TCP {rate:.1} Gbit/s (receiver and sender share the machine), UDP {lost:.2} % lost"
    ))
}

fn number(report: &Value, at: &str) -> Result<f64> {
    report
        .pointer(at)
        .and_then(Value::as_f64)
        .with_context(|| format!("iperf3's report has no {at}"))
}

pub fn survive(stage: &mut Stage) -> Result<String> {
    let lab = &stage.lab;
    let ssh = TcpEcho::start(lab.o(2), 22)?;
    let (mut session, tcp_external) = tcp_seen_by(&ssh, lab.h(2))?;
    let echo = UdpEcho::start(lab.o(1), 4000)?;
    let stream = Stream::start(lab.h(1), 5004, echo.endpoint)?;
    wait_until("the stream runs", SOON, || echo.served() > 200)?;
    let before = external_of(&stage.nat, "192.168.1.10:5004")?;
    println!("   the stream is bound to {before}, the TCP session to {tcp_external}");
    tcp_echo(&mut session, b"before the crash")?;

    stage.nat.kill9();
    println!("   kill -9 of the daemon");
    let at_kill = echo.served();
    let newcomer = host_udp(lab.h(2), 6000)?;
    let made_without = seen_by(&echo, &newcomer)?;
    println!("   a new flow, opened without the daemon, is bound to {made_without}");
    tcp_echo(&mut session, b"while nobody is at home")?;
    wait_until("the stream goes on", SOON, || echo.served() > at_kill + 400)?;

    stage.nat.restart()?;
    println!("   restarted");
    let at_restart = echo.served();
    wait_until("the stream goes on", SOON, || echo.served() > at_restart + 200)?;
    tcp_echo(&mut session, b"after the restart")?;
    for (inside, expected) in [("192.168.1.10:5004", before), ("192.168.1.11:6000", made_without)] {
        let now = external_of(&stage.nat, inside)?;
        ensure!(
            now == expected,
            "{inside} was bound to {expected} and is now bound to {now}"
        );
    }
    let (sent, received) = stream.stop()?;
    println!("   {sent} datagrams sent, {received} came back");
    ensure!(sent == received, "{} datagrams were lost", sent.abs_diff(received));
    Ok(format!(
        "{sent} of {sent} datagrams over a kill and a restart, every binding still there"
    ))
}

/// The external endpoint of an inside one, as the daemon knows it.
fn external_of(nat: &RunningNat, inside: &str) -> Result<SocketAddrV4> {
    let all = nat.json(&["bindings"])?;
    let found = all
        .as_array()
        .into_iter()
        .flatten()
        .find(|b| b["inside"] == inside && b["proto"] == "udp");
    let Some(binding) = found else {
        bail!("no binding of {inside}")
    };
    Ok(binding["external"].as_str().context("external is no string")?.parse()?)
}

pub fn tables(stage: &mut Stage) -> Result<String> {
    for args in [&["status"][..], &["bindings"], &["blocks"], &["counters"]] {
        println!("   $ sipnat {}", args.join(" "));
        show(&text_of(&stage.nat, args)?);
    }
    let bindings = stage.nat.json(&["bindings"])?.as_array().map_or(0, Vec::len);
    ensure!(bindings > 0, "no bindings");
    Ok(format!("{bindings} bindings"))
}

pub fn detach(stage: &mut Stage) -> Result<String> {
    show(&text_of(&stage.nat, &["detach"])?);
    let link = stage.lab.router.run("ip", ["-d", "link", "show"])?;
    ensure!(!link.contains("prog/xdp"), "a program is still attached:\n{link}");
    Ok("no program attached".into())
}
