//! `kserved chat`: a conversation with a service of a running daemon.

use super::client::Server;
use super::get::{Scope, one};
use super::infer::{host, only_model};
use super::talk::{Style, Talk};
use crate::api::Kind;
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
    let service = one(&client, Kind::InferenceService, &arguments.scope.namespace, &arguments.service).await?;
    let host = host(&service)?;
    let model = match &arguments.model {
        Some(model) => model.clone(),
        None => only_model(&client, &host, &arguments.service).await?,
    };
    Talk::new(client, host, model, &arguments.style).run(&arguments.style, out).await
}
