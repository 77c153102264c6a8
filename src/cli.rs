//! The command line: `serve` runs the daemon, the other commands ask a running one or look at files.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong arguments or a wrong configuration, 130 and 143 ended at once by a signal.

mod age;
mod cache;
mod chat;
mod client;
mod config;
mod describe;
mod get;
mod infer;
mod kind;
mod npy;
mod optimise_graph;
mod plan;
mod pull;
mod run;
mod serve;
mod settings;
mod size;
mod storage;
mod table;
mod talk;
mod validate;

use crate::config::ConfigError;
use clap::{CommandFactory, Parser, Subcommand};
use std::io::{self, Write};
use std::process::ExitCode;

/// Exit code for wrong arguments and a wrong configuration; clap's own.
const WRONG: u8 = 2;

/// Serves KServe resources on one machine, without Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "kserved", version, propagate_version = false, disable_help_subcommand = true, infer_subcommands = false)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch folders with KServe resources and serve their models.
    Serve(Box<serve::Arguments>),
    /// Check resources without running them: mistakes are printed as file:line:column.
    Validate(Box<validate::Arguments>),
    /// Show what would be served, and what would be fetched for it, without running or fetching anything.
    Plan(Box<plan::Arguments>),
    /// List resources of a running daemon.
    Get(get::Arguments),
    /// Show one resource in full: conditions, revisions, mistakes.
    Describe(describe::Arguments),
    /// Send a request to a service and print its answer.
    Infer(infer::Arguments),
    /// Talk to a service of a running daemon whose model writes text.
    Chat(Box<chat::Arguments>),
    /// Fetch a model, serve it on a free port, and talk to it.
    Run(Box<run::Arguments>),
    /// Fetch models into the cache before anybody serves them.
    Pull(Box<pull::Arguments>),
    /// Look at the fetched models, keep or remove them, carry them to another machine.
    Cache(Box<cache::Arguments>),
    /// Look at the settings.
    #[command(subcommand)]
    Config(config::Arguments),
    /// Print a script that completes commands in a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
    /// Optimise a model for this machine and write the graph; a daemon asks this of itself.
    #[command(hide = true)]
    OptimiseGraph(optimise_graph::Arguments),
}

/// Reads the process's arguments, does what they say, and answers with the exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody is left to tell when even this cannot be written.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(WRONG));
        }
    };
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let out = &mut io::stdout();
    match command {
        Command::Serve(arguments) => serve::run(*arguments),
        Command::Validate(arguments) => validate::run(&arguments, out),
        Command::Plan(arguments) => client::block_on(plan::run(&arguments, out)),
        Command::Get(arguments) => client::block_on(get::run(&arguments, out)),
        Command::Describe(arguments) => client::block_on(describe::run(&arguments, out)),
        Command::Infer(arguments) => client::block_on(infer::run(&arguments, out)),
        Command::Chat(arguments) => client::block_on(chat::run(&arguments, out)),
        Command::Run(arguments) => run::run(&arguments, out),
        Command::Pull(arguments) => client::block_on(pull::run(&arguments, out)),
        Command::Cache(arguments) => cache::run(&arguments, out),
        Command::Config(arguments) => config::run(arguments, out),
        Command::OptimiseGraph(arguments) => optimise_graph::run(&arguments),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "kserved", out);
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            writeln!(out, "kserved {}", env!("CARGO_PKG_VERSION"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints an error with its causes; a reader that went away (`kserved get | head`) is none.
fn report(error: &anyhow::Error) -> ExitCode {
    let gone = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if gone {
        return ExitCode::SUCCESS;
    }
    // Nobody is left to tell when even this cannot be written.
    let _ = writeln!(io::stderr(), "error: {error:#}");
    if error.is::<ConfigError>() { ExitCode::from(WRONG) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_and_flags_fit_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_misspelled_command_is_answered_with_the_right_one() {
        let error = Arguments::try_parse_from(["kserved", "describ"]).unwrap_err();
        assert!(error.to_string().contains("`describe`") || error.to_string().contains("'describe'"), "{error}");
        assert_eq!(error.exit_code(), i32::from(WRONG));
    }

    #[test]
    fn a_configuration_error_has_its_own_exit_code() {
        let wrong = anyhow::Error::from(ConfigError::Check(vec!["x".to_owned()]));
        assert_eq!(format!("{:?}", report(&wrong)), format!("{:?}", ExitCode::from(2)));
        let gone = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(format!("{:?}", report(&gone)), format!("{:?}", ExitCode::SUCCESS));
    }
}
