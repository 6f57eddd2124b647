//! `cargo xtask`: everything that is done with this repository, from a bare machine to a tested NAT.

mod bench;
mod build;
mod cli;
mod demo;
mod fuzz;
mod lab;
mod run;
mod scorecard;
mod security;
mod setup;
mod test;
mod verifier;
mod vm;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::run(),
        Command::Build => build::run(),
        Command::Test | Command::Ci => test::run(),
        Command::Demo => demo::run(),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Lab(lab) => lab::run(&lab),
        Command::Scorecard => scorecard::run(),
        Command::Security => security::run(),
        Command::Bench(bench) => bench::run(&bench),
        Command::Verifier => verifier::run(),
        Command::Vm(options) => vm::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
