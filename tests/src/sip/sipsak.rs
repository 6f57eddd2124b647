//! sipsak: single requests from the command line, as administrators send them.

use std::net::SocketAddrV4;

use anyhow::Result;

use crate::ns::Namespace;

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 0: a final response came that was positive.
    pub code: Option<i32>,
    /// What it printed, the response among it.
    pub text: String,
}

/// `sipsak -vvv -s sip:USER@SERVER` with further arguments, such as `-U` to register. Waits for its end.
pub fn sipsak(ns: &Namespace, user: &str, server: SocketAddrV4, args: &[&str]) -> Result<Answer> {
    let uri = format!("sip:{user}@{server}");
    let first = ["-vvv", "-s", &uri];
    let output = ns.output("sipsak", first.iter().chain(args))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(Answer {
        code: output.status.code(),
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}
