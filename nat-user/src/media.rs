//! Media of calls, the control plane's part: session descriptions that are read and edited (RFC 8866).

pub mod sdp;
