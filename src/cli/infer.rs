//! `kserved infer`: one request to a service, from a JSON file or from arrays, and its answer.

mod input;

use super::client::{Client, Server};
use super::get::{Scope, one, text};
use crate::api::Kind;
use anyhow::{Context, bail};
use clap::Args;
use input::{Input, Metadata};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HOST};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::process::ExitCode;
use url::Url;

/// Says where the JSON of a body with raw tensors ends.
const HEADER_LENGTH: &str = "Inference-Header-Content-Length";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The InferenceService
    service: String,
    /// Request as JSON: v1 with `instances`, or v2 with `inputs`; `-` reads stdin
    #[arg(required_unless_present = "input", conflicts_with = "input")]
    file: Option<String>,
    /// One input: NAME=@FILE (.npy, .json, else raw bytes) or NAME=JSON; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = Input::parse)]
    input: Vec<Input>,
    /// Only this output; may be repeated
    #[arg(long = "output-name", value_name = "NAME")]
    outputs: Vec<String>,
    /// The model, where the service has several
    #[arg(short, long)]
    model: Option<String>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    server: Server,
}

/// A request ready to be sent.
#[derive(Debug, PartialEq)]
struct Body {
    /// What follows the model's name in the path.
    call: Call,
    bytes: Vec<u8>,
    /// Bytes of JSON in front of raw tensors.
    header_length: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    V1Predict,
    V2Infer,
}

pub(super) async fn run(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let client = arguments.server.client()?;
    let (host, model) = address(&client, &arguments.scope, &arguments.service, arguments.model.as_deref()).await?;
    let body = if let Some(file) = &arguments.file {
        from_file(file)?
    } else {
        let request = client.request(Method::GET, &format!("/v2/models/{model}")).header(HOST, &host);
        let metadata: Metadata = client.send(request).await?.json().await.context("the model's metadata is not as expected")?;
        from_inputs(&arguments.input, &arguments.outputs, &metadata)?
    };
    let answer = send(&client, &host, &model, body).await?;
    writeln!(out, "{answer:#}")?;
    Ok(ExitCode::SUCCESS)
}

async fn send(client: &Client, host: &str, model: &str, body: Body) -> anyhow::Result<Value> {
    let path = match body.call {
        Call::V1Predict => format!("/v1/models/{model}:predict"),
        Call::V2Infer => format!("/v2/models/{model}/infer"),
    };
    let request = client.request(Method::POST, &path).header(HOST, host);
    let request = match body.header_length {
        Some(length) => request.header(HEADER_LENGTH, length).header(CONTENT_TYPE, "application/octet-stream"),
        None => request.header(CONTENT_TYPE, "application/json"),
    };
    client.send(request.body(body.bytes)).await?.json().await.context("the answer is not JSON")
}

/// The host that the service answers to, whatever address the daemon has.
pub(super) fn host(service: &Value) -> anyhow::Result<String> {
    let Some(url) = text(service, "/status/url") else {
        let name = text(service, "/metadata/name").unwrap_or_default();
        bail!("service `{name}` has no address yet\nhint: `kserved describe isvc {name}` says why");
    };
    let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.with_context(|| format!("the address of the service is not a URL: `{url}`"))
}

/// The host of a service, and the model to ask there: the one that is asked for, else its only one.
pub(super) async fn address(client: &Client, scope: &Scope, service: &str, model: Option<&str>) -> anyhow::Result<(String, String)> {
    let host = host(&one(client, Kind::InferenceService, &scope.namespace, service).await?)?;
    let model = match model {
        Some(model) => model.to_owned(),
        None => only_model(client, &host, service).await?,
    };
    Ok((host, model))
}

async fn only_model(client: &Client, host: &str, service: &str) -> anyhow::Result<String> {
    let list: Value = client.send(client.request(Method::GET, "/v1/models").header(HOST, host)).await?.json().await?;
    let models: Vec<&str> = list["models"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match models[..] {
        [model] => Ok(model.to_owned()),
        [] => bail!("service `{service}` has no model that is ready\nhint: `kserved describe isvc {service}` says why"),
        _ => bail!("service `{service}` has several models\nhint: choose with `--model`: `{}`", models.join("`, `")),
    }
}

fn from_file(file: &str) -> anyhow::Result<Body> {
    let bytes = match file {
        "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).context("cannot read stdin")?;
            bytes
        }
        file => std::fs::read(file).with_context(|| format!("cannot read `{file}`"))?,
    };
    let value: Value = serde_json::from_slice(&bytes).with_context(|| format!("`{file}` is not JSON"))?;
    let call =
        call_of(&value).with_context(|| format!("`{file}`: expected `instances` (v1) or `inputs` with name, shape, datatype (v2)"))?;
    Ok(Body { call, bytes, header_length: None })
}

/// v2 inputs are objects with a datatype; v1 has instances, or TensorFlow's columns as inputs.
fn call_of(value: &Value) -> Option<Call> {
    let is_tensor = |input: &Value| input.get("datatype").is_some();
    match (value.get("instances"), value.get("inputs")) {
        (None, None) => None,
        (None, Some(Value::Array(inputs))) if inputs.iter().all(is_tensor) => Some(Call::V2Infer),
        _ => Some(Call::V1Predict),
    }
}

fn from_inputs(inputs: &[Input], outputs: &[String], metadata: &Metadata) -> anyhow::Result<Body> {
    let mut raw = Vec::new();
    let tensors = inputs.iter().map(|input| input.tensor(metadata, &mut raw)).collect::<anyhow::Result<Vec<Value>>>()?;
    let mut request = json!({ "inputs": tensors });
    if !outputs.is_empty() {
        request["outputs"] = outputs.iter().map(|name| json!({ "name": name })).collect();
    }
    let mut bytes = serde_json::to_vec(&request)?;
    let header_length = (!raw.is_empty()).then_some(bytes.len());
    bytes.extend(raw);
    Ok(Body { call: Call::V2Infer, bytes, header_length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_is_seen_from_the_request() {
        assert_eq!(call_of(&json!({ "instances": [[1]] })), Some(Call::V1Predict));
        assert_eq!(call_of(&json!({ "inputs": { "x": [1] } })), Some(Call::V1Predict));
        assert_eq!(call_of(&json!({ "inputs": [{ "name": "x", "shape": [1], "datatype": "FP32", "data": [1] }] })), Some(Call::V2Infer));
        assert_eq!(call_of(&json!({ "id": "1" })), None);
    }

    #[test]
    fn the_host_is_that_of_the_services_url() {
        assert_eq!(host(&json!({ "status": { "url": "http://iris.default.example.com" } })).unwrap(), "iris.default.example.com");
        assert!(host(&json!({ "metadata": { "name": "iris" } })).unwrap_err().to_string().contains("describe isvc iris"));
    }

    #[test]
    fn raw_inputs_follow_the_json() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.bin");
        std::fs::write(&file, [0; 8]).unwrap();
        let inputs = [Input::parse(&format!("x=@{}", file.display())).unwrap(), Input::parse("y=[[1,2]]").unwrap()];
        let metadata: Metadata = serde_json::from_value(json!({ "inputs": [
            { "name": "x", "datatype": "FP32", "shape": [-1, 2] }, { "name": "y", "datatype": "INT64", "shape": [-1, 2] },
        ] }))
        .unwrap();
        let body = from_inputs(&inputs, &["z".to_owned()], &metadata).unwrap();
        let (header, raw) = body.bytes.split_at(body.header_length.unwrap());
        assert_eq!(raw, [0; 8]);
        let request: Value = serde_json::from_slice(header).unwrap();
        assert_eq!(
            request["inputs"][0],
            json!({ "name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": { "binary_data_size": 8 } })
        );
        assert_eq!(request["inputs"][1], json!({ "name": "y", "datatype": "INT64", "shape": [1, 2], "data": [1, 2] }));
        assert_eq!(request["outputs"], json!([{ "name": "z" }]));
    }
}
