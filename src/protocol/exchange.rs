//! One inference on its way, over any wire: its route, its place, its deadline, and its line in the metrics.

use super::door::{Arrival, Door};
use super::error::Refusal;
use super::limits::Admitted;
use super::timing::Stages;
use crate::inference::{InferenceRequest, InferenceResponse, ModelMetadata, Parameter, Priority};
use crate::observe;
use crate::pool::ModelHandle;
use crate::pool::statistics::Spent;
use crate::router::{Route, Router};
use http::StatusCode;
use std::sync::Arc;
use tokio::time::Instant;
use tonic::Code;

/// The wires, as the metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// KServe v1 over HTTP.
    V1,
    /// Open Inference Protocol over HTTP.
    V2,
    /// Open Inference Protocol over gRPC.
    Grpc,
    /// OpenAI's endpoints.
    OpenAi,
}

impl Wire {
    const fn protocol(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Grpc => "grpc-v2",
            Self::OpenAi => "openai",
        }
    }
}

/// An inference that was let in. Counted when it ends, also when its caller leaves first.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The route it goes to.
    pub(crate) route: Arc<Route>,
    /// When the answer must be there.
    pub(crate) deadline: Instant,
    /// Where the time went so far.
    pub(crate) stages: Stages,
    answered: bool,
    revision: String,
    router: Router,
    priority: Option<Priority>,
    _place: Admitted,
    count: Count,
}

impl Exchange {
    /// Lets an inference in: finds its model, looks whether it serves, takes a place.
    ///
    /// # Errors
    /// 404, 503; counted already.
    pub(crate) fn begin(door: &Door, arrival: &Arrival, model: &str, wire: Wire) -> Result<Self, Refusal> {
        // Only names that a resource gave become labels: a stranger's guesses must not fill the metrics.
        let mut count = Count { model: None, wire, since: arrival.at, code: None, told: false };
        let begun = Self::let_in(door, arrival, model, &mut count);
        match begun {
            Ok((route, place)) => {
                let deadline = arrival.deadline(&route);
                let (router, priority) = (door.router.clone(), arrival.priority);
                Ok(Self {
                    route,
                    deadline,
                    stages: Stages::default(),
                    answered: false,
                    revision: String::new(),
                    router,
                    priority,
                    _place: place,
                    count,
                })
            }
            Err(refusal) => {
                count.code = Some(label(&refusal, wire));
                Err(refusal)
            }
        }
    }

    fn let_in(door: &Door, arrival: &Arrival, model: &str, count: &mut Count) -> Result<(Arc<Route>, Admitted), Refusal> {
        let route = door.route(arrival, model)?.drawn(&arrival.caller);
        count.model = Some(Arc::clone(&route.model_name));
        route.metadata()?;
        Ok((route, door.limits.admit()?))
    }

    /// What the model says of itself.
    pub(crate) fn metadata(&self) -> Result<&Arc<ModelMetadata>, Refusal> {
        Ok(self.route.metadata()?)
    }

    /// Asks the model, and wakes it first when it sleeps.
    pub(crate) async fn infer(&mut self, mut request: InferenceRequest) -> Result<InferenceResponse, Refusal> {
        request.priority = self.priority.or_else(|| asked_priority(&request)).unwrap_or_default();
        let response = self.router.infer(&mut self.route, request, self.deadline).await?;
        self.stages.pool = response.timing;
        Ok(response)
    }

    /// The model itself, awake, for those who ask it in another way than by tensors.
    pub(crate) async fn writer(&mut self) -> Result<ModelHandle, Refusal> {
        let handle = self.router.awake(&mut self.route, self.deadline).await?;
        handle.revision().clone_into(&mut self.revision);
        Ok(handle)
    }

    /// When the request came.
    pub(crate) const fn began(&self) -> Instant {
        self.count.since
    }

    /// Who it goes before.
    pub(crate) fn priority(&self) -> Priority {
        self.priority.unwrap_or_default()
    }

    /// The revision that answers what [`Exchange::writer`] was asked.
    pub(crate) fn revision(&self) -> &str {
        &self.revision
    }

    /// Notes that the time until now went into tokens.
    pub(crate) fn generated(&mut self) {
        self.stages.pool.run = self.count.since.elapsed().saturating_sub(self.stages.parse);
    }

    /// Ends the exchange with what its caller gets.
    pub(crate) fn end<T>(mut self, outcome: &Result<T, Refusal>) {
        let wire = self.count.wire;
        self.count.code = Some(match outcome {
            Ok(_) => success(wire),
            Err(refusal) => label(refusal, wire),
        });
        if outcome.is_ok() {
            self.answered = true;
            self.count.answered(self.route.ready().ok(), self.stages);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Ok(handle) = self.route.ready() else { return };
        let (total, Stages { parse, pool, encode }) = (self.count.since.elapsed(), self.stages);
        if self.answered {
            handle.statistics().succeeded(&Spent { total, queue: pool.queue, input: parse, infer: pool.run, output: encode });
        } else {
            handle.statistics().failed(total);
        }
    }
}

/// Triton's request parameter `priority`: 0 is the default, and of the others the lower goes first.
fn asked_priority(request: &InferenceRequest) -> Option<Priority> {
    match request.parameters.get("priority")? {
        Parameter::Int(number) => Priority::parse(itoa::Buffer::new().format(*number)),
        Parameter::Uint(number) => Priority::parse(itoa::Buffer::new().format(*number)),
        Parameter::String(text) => Priority::parse(text),
        Parameter::Bool(_) | Parameter::Double(_) => None,
    }
}

/// A line in the metrics, written when dropped.
#[derive(Debug)]
struct Count {
    /// Nothing for a model nobody has.
    model: Option<Arc<str>>,
    wire: Wire,
    since: Instant,
    code: Option<&'static str>,
    /// Whether its line is written.
    told: bool,
}

impl Count {
    /// Writes the line of an answered request, by the figures that its revision keeps at hand.
    fn answered(&mut self, revision: Option<&ModelHandle>, stages: Stages) {
        let Some(metrics) = revision.map(ModelHandle::answered_metrics) else { return };
        let Stages { parse, pool, encode } = stages;
        metrics.stages(parse, pool.run, encode);
        let (protocol, code, time) = (self.wire.protocol(), success(self.wire), self.since.elapsed());
        tracing::debug!(model = self.model.as_deref(), protocol, code, ?time, "answered");
        metrics.request(self.wire as usize, protocol, code, time);
        self.told = true;
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        let protocol = self.wire.protocol();
        let (code, time) = (self.code.unwrap_or("cancelled"), self.since.elapsed());
        tracing::debug!(model = self.model.as_deref(), protocol, code, ?time, "answered");
        observe::request(&self.model.take().unwrap_or_default(), protocol, code, time);
    }
}

const fn success(wire: Wire) -> &'static str {
    match wire {
        Wire::V1 | Wire::V2 | Wire::OpenAi => "200",
        Wire::Grpc => "OK",
    }
}

fn label(refusal: &Refusal, wire: Wire) -> &'static str {
    match wire {
        Wire::V1 | Wire::V2 | Wire::OpenAi => status_label(refusal.status()),
        Wire::Grpc => code_label(refusal.code()),
    }
}

/// The statuses of the table of errors.
fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "400",
        404 => "404",
        405 => "405",
        408 => "408",
        413 => "413",
        415 => "415",
        422 => "422",
        429 => "429",
        501 => "501",
        503 => "503",
        504 => "504",
        _ => "500",
    }
}

pub(super) fn code_label(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::Unavailable => "UNAVAILABLE",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Unimplemented => "UNIMPLEMENTED",
        _ => "INTERNAL",
    }
}
