//! The router's own sockets and port sysctls, from /proc.
//!
//! Read by way of /proc/thread-self, so that a thread that entered a network namespace sees that namespace.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

use super::ports::PortSet;

/// Which sockets to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    TcpListening,
    /// Bound UDP sockets, connected ones too: their answers come to that port.
    Udp,
}

/// The local ports of the sockets that IPv4 packets can reach: IPv4 ones, and IPv6 ones bound to the wildcard or to
/// an IPv4-mapped address. Sockets bound to 127.0.0.0/8 are left out, because nothing from outside reaches them.
///
/// # Errors
/// If the kernel's table cannot be read; a missing IPv6 table (IPv6 disabled) is no error.
pub fn ports(table: Table) -> io::Result<PortSet> {
    let (v4, v6) = match table {
        Table::TcpListening => ("tcp", "tcp6"),
        Table::Udp => ("udp", "udp6"),
    };
    let mut set = parse(&read(&format!("/proc/thread-self/net/{v4}"))?, table);
    match read(&format!("/proc/thread-self/net/{v6}")) {
        Ok(text) => set.union(&parse(&text, table)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(set)
}

/// net.ipv4.ip_local_port_range of the calling thread's network namespace.
pub fn local_port_range() -> io::Result<RangeInclusive<u16>> {
    const PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = read(PATH)?;
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => Ok(first..=last),
        _ => Err(not_understood(PATH, &text)),
    }
}

/// net.ipv4.ip_local_reserved_ports of the calling thread's network namespace.
pub fn local_reserved_ports() -> io::Result<PortSet> {
    const PATH: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let text = read(PATH)?;
    text.parse().map_err(|_| not_understood(PATH, &text))
}

/// Lines like "  0: 0100007F:0277 00000000:0000 0A ..."; addresses are words in the machine's byte order.
fn parse(text: &str, table: Table) -> PortSet {
    const LISTEN: &str = "0A";
    let line = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (address, port) = local.split_once(':')?;
        let wanted = table == Table::Udp || state == LISTEN;
        let port = u16::from_str_radix(port, 16).ok()?;
        (wanted && port != 0 && reachable(address)?).then_some(port)
    };
    text.lines().skip(1).filter_map(line).collect()
}

fn reachable(address: &str) -> Option<bool> {
    let word = |i: usize| {
        Some(
            u32::from_str_radix(address.get(i * 8..i * 8 + 8)?, 16)
                .ok()?
                .to_ne_bytes(),
        )
    };
    let v4 = match address.len() {
        8 => word(0)?,
        32 => match (word(0)?, word(1)?, word(2)?, word(3)?) {
            ([0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]) => return Some(true),
            ([0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0xff, 0xff], v4) => v4,
            _ => return Some(false),
        },
        _ => return None,
    };
    Some(v4[0] != 127)
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path).map_err(|e| io::Error::new(e.kind(), format!("cannot read {path}: {e}")))
}

fn not_understood(path: &str, text: &str) -> io::Error {
    let text = text.trim();
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{path} holds \"{text}\", which is not understood"),
    )
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use crate::net::ports::OwnPorts;
    use crate::net::testns::TestNs;
    use std::net::{TcpListener, UdpSocket};

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 0A00000A:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1
   3: 0A00000A:0016 0B00000A:D431 01 00000000:00000000 00:00000000 00000000     0        0 4 1
   4: 0A00000A:D431 0B00000A:0050 01 00000000:00000000 00:00000000 00000000     0        0 5 1
";
    const UDP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue
    1: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000
    2: 0000000000000000FFFF00000A00000A:14E9 00000000000000000000000000000000:0000 07 00000000:00000000
    3: 0000000000000000FFFF00000100007F:0043 00000000000000000000000000000000:0000 07 00000000:00000000
    4: B80D0120000000000000000001000000:0222 00000000000000000000000000000000:0000 07 00000000:00000000
";

    #[test]
    fn listening_sockets_that_others_can_reach() {
        assert_eq!(parse(TCP, Table::TcpListening).to_string(), "22,8080");
        assert_eq!(parse(UDP6, Table::Udp).to_string(), "53,5353");
        assert!(parse("", Table::Udp).is_empty());
        assert!(parse("head\nshort line\n 1: xyz:zz 0 0A\n 1: 00:16 0 0A", Table::Udp).is_empty());
    }

    #[test]
    fn sees_the_namespace_of_its_thread() {
        let Some(ns) = TestNs::new() else { return };
        let own = ns.enter(|| {
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40999").unwrap();
            fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "8080,9148-9150").unwrap();
            let _tcp = TcpListener::bind("0.0.0.0:2222").unwrap();
            let _tcp6 = TcpListener::bind("[::]:2223").unwrap();
            let _local = TcpListener::bind("127.0.0.1:2224").unwrap();
            let _udp = UdpSocket::bind("0.0.0.0:5060").unwrap();
            OwnPorts::gather().unwrap()
        });
        let expected = OwnPorts {
            local_range: 40000..=40999,
            reserved: "8080,9148-9150".parse().unwrap(),
            tcp: "2222-2223".parse().unwrap(),
            udp: "5060".parse().unwrap(),
        };
        assert_eq!(own, expected);
    }
}
