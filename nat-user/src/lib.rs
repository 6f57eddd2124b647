pub mod net;
pub mod preflight;
