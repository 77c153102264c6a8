//! `kserved chat`: a conversation with a service of a running daemon.

use super::client::Server;
use super::get::Scope;
use super::infer::address;
use super::talk::{Style, Talk};
use clap::Args;
use std::io::Write;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The InferenceService
    service: String,
    /// The model, where the service has several
    #[arg(short, long)]
    model: Option<String>,
    #[command(flatten)]
    style: Style,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    server: Server,
}

pub(super) async fn run(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let client = arguments.server.client()?;
    let (host, model) = address(&client, &arguments.scope, &arguments.service, arguments.model.as_deref()).await?;
    Talk::new(client, host, model, &arguments.style).run(&arguments.style, out).await
}
