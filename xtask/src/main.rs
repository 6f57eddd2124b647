//! `cargo xtask`: everything that is done with this repository, from a bare machine to a tested NAT.

mod build;
mod cli;
mod fuzz;
mod lab;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::run(),
        Command::Build => build::run(),
        Command::Test | Command::Ci => test::run(),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Lab(lab) => lab::run(&lab),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
