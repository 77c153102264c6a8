//! What stands around the tensors of a v2 request over HTTP: id, parameters, inputs, wanted outputs.

use super::json::number;
use super::json::scanner::Scanner;
use super::shared_memory::{self, Shared, SharedPlace};
use super::v2_binary::Blobs;
use super::v2_json::{DataReader, Input, TensorHead};
use super::{DecodeError, Decoded, Limits, ReplyForm, check_reserved, check_unique};
use crate::inference::{InferenceRequest, Parameter, Parameters, RequestedOutput};
use crate::tensor::{DataType, Tensor, datatype::UnknownDataType};

/// Reads the JSON of a request; tensors without `data` are taken from the blobs.
pub(super) fn read(text: &[u8], blobs: &mut Blobs, model: &str, limits: &Limits) -> Result<Decoded, DecodeError> {
    let mut scanner = Scanner::new(text, limits.json_depth_max);
    let mut reader = DataReader { model, limits, bytes_left: limits.decoded_bytes_max };
    let mut request = InferenceRequest::default();
    let mut shared = Shared::default();
    let mut inputs = None;
    expect(&mut scanner, b'{', Place::of("the request"), "an object")?;
    scanner.members(|scanner, name| {
        match name.as_ref() {
            "id" => request.id = optional(scanner, |scanner| string(scanner, Place::of("id")))?,
            "parameters" => request.parameters = parameters(scanner, Place::of("parameters"), limits)?,
            "inputs" => inputs = Some(read_inputs(scanner, blobs, &mut reader, &mut shared)?),
            "outputs" => request.outputs = optional(scanner, |scanner| read_outputs(scanner, limits))?.unwrap_or_default(),
            _ => drop(scanner.skip_value()?),
        }
        Ok(())
    })?;
    scanner.end()?;
    request.inputs = inputs.ok_or_else(|| Place::of("inputs").problem("is missing"))?;
    let names = request.inputs.iter().map(|input| input.name().as_ref());
    check_reserved(&request.parameters)?;
    check_unique("input", names.chain(shared.inputs.iter().map(|input| input.name.as_ref())))?;
    check_unique("requested output", request.outputs.iter().map(|output| output.name.as_str()))?;
    shared.outputs = shared_memory::wanted(&request.outputs)?;
    let reply = reply_form(&request);
    Ok(Decoded { request, reply, shared })
}

/// Which outputs are wanted as raw bytes: a list of outputs decides alone, else the request's parameter.
///
/// Source: reference 4.4, KServe's precedence.
fn reply_form(request: &InferenceRequest) -> ReplyForm {
    let asks = |parameters: &Parameters, name: &str| parameters.get(name) == Some(&Parameter::Bool(true));
    if request.outputs.is_empty() {
        return if asks(&request.parameters, "binary_data_output") { ReplyForm::Binary } else { ReplyForm::Text };
    }
    let binary: Vec<String> =
        request.outputs.iter().filter(|output| asks(&output.parameters, "binary_data")).map(|output| output.name.clone()).collect();
    if binary.is_empty() { ReplyForm::Text } else { ReplyForm::BinaryOnly(binary) }
}

/// A place in the request, put into words only when something is wrong there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    list: &'a str,
    index: Option<usize>,
    member: &'a str,
}

impl<'a> Place<'a> {
    /// A member of the request itself.
    pub(super) const fn of(member: &'a str) -> Self {
        Self { list: member, index: None, member: "" }
    }

    /// An element of a list.
    const fn item(list: &'a str, index: usize) -> Self {
        Self { list, index: Some(index), member: "" }
    }

    /// A member of an element.
    const fn member(self, member: &'a str) -> Self {
        Self { member, ..self }
    }

    /// The mistake at this place.
    #[cold]
    fn problem(self, problem: impl Into<String>) -> DecodeError {
        DecodeError::Member { path: self.to_string(), problem: problem.into() }
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.list)?;
        if let Some(index) = self.index {
            write!(f, "[{index}]")?;
        }
        if self.member.is_empty() { Ok(()) } else { write!(f, ".{}", self.member) }
    }
}

/// An input as far as its members were read.
#[derive(Debug, Default)]
pub(super) struct InputText<'a> {
    name: Option<String>,
    datatype: Option<DataType>,
    shape: Option<Vec<i64>>,
    parameters: Parameters,
    data: Data<'a>,
}

/// The elements of an input as far as they were read.
#[derive(Debug, Default)]
pub(super) enum Data<'a> {
    /// No `data` seen.
    #[default]
    Missing,
    /// `data` came before the members that say how to read it.
    Later(Scanner<'a>),
    /// Read already.
    Read(Tensor),
}

/// Where the elements of an input are when they are not in its `data`.
#[derive(Debug)]
pub(super) enum Elsewhere {
    /// Nowhere.
    Nowhere,
    /// So many bytes behind the JSON.
    Behind(usize),
    /// In a region of shared memory.
    Shared(SharedPlace),
}

impl Elsewhere {
    fn of(parameters: &Parameters, name: &str, place: Place<'_>) -> Result<Self, DecodeError> {
        if let Some(shared) = SharedPlace::of(parameters, &format_args!("input `{name}`"))? {
            return Ok(Self::Shared(shared));
        }
        Ok(binary_size(parameters, place)?.map_or(Self::Nowhere, Self::Behind))
    }
}

impl<'a> InputText<'a> {
    /// The parts, once all members were seen: what the tensor is, its data, and where else that may be.
    pub(super) fn complete(self, place: Place<'_>, limits: &Limits) -> Result<(TensorHead, Data<'a>, Elsewhere), DecodeError> {
        let missing = |member| place.member(member).problem("is missing");
        let name = self.name.ok_or_else(|| missing("name"))?;
        let datatype = self.datatype.ok_or_else(|| missing("datatype"))?;
        let shape = self.shape.ok_or_else(|| missing("shape"))?;
        let elsewhere = Elsewhere::of(&self.parameters, &name, place)?;
        check_rank(&name, shape.len(), limits)?;
        Ok((TensorHead { name: name.into(), datatype, shape }, self.data, elsewhere))
    }

    /// What is needed to read `data` at once, if it is known already.
    fn head(&self) -> Option<TensorHead> {
        Some(TensorHead { name: self.name.as_deref()?.into(), datatype: self.datatype?, shape: self.shape.clone()? })
    }

    fn member(&mut self, scanner: &mut Scanner<'a>, name: &str, place: Place<'_>, reader: &mut DataReader<'_>) -> Result<(), DecodeError> {
        match name {
            "name" => self.name = Some(string(scanner, place.member("name"))?),
            "datatype" => self.datatype = Some(datatype(scanner, place.member("datatype"))?),
            "shape" => self.shape = Some(shape(scanner, place.member("shape"), reader.limits)?),
            "parameters" => self.parameters = parameters(scanner, place.member("parameters"), reader.limits)?,
            "data" => self.data = self.read_data(scanner, reader)?,
            _ => drop(scanner.skip_value()?),
        }
        Ok(())
    }

    fn read_data(&self, scanner: &mut Scanner<'a>, reader: &mut DataReader<'_>) -> Result<Data<'a>, DecodeError> {
        if scanner.null()? {
            return Ok(Data::Missing);
        }
        if let Some(head) = self.head() {
            return reader.read(&head, scanner).map(Data::Read);
        }
        let start = scanner.mark();
        scanner.skip_array()?;
        Ok(Data::Later(start))
    }
}

fn read_inputs(
    scanner: &mut Scanner<'_>,
    blobs: &mut Blobs,
    reader: &mut DataReader<'_>,
    shared: &mut Shared,
) -> Result<Vec<Tensor>, DecodeError> {
    expect(scanner, b'[', Place::of("inputs"), "an array")?;
    let mut inputs = Vec::new();
    scanner.items(|scanner, index| {
        let place = Place::item("inputs", index);
        check_count("inputs", index, reader.limits)?;
        expect(scanner, b'{', place, "an object")?;
        let mut input = InputText::default();
        scanner.members(|scanner, name| input.member(scanner, &name, place, reader))?;
        match reader.finish(input, place, blobs)? {
            Input::Here(tensor) => inputs.push(tensor),
            Input::Shared(head, place) => shared.inputs.push(head.shared(index, place)),
        }
        Ok(())
    })?;
    Ok(inputs)
}

fn read_outputs(scanner: &mut Scanner<'_>, limits: &Limits) -> Result<Vec<RequestedOutput>, DecodeError> {
    expect(scanner, b'[', Place::of("outputs"), "an array")?;
    let mut outputs = Vec::new();
    scanner.items(|scanner, index| {
        let place = Place::item("outputs", index);
        check_count("outputs", index, limits)?;
        expect(scanner, b'{', place, "an object")?;
        let mut name = None;
        let mut output = RequestedOutput::default();
        scanner.members(|scanner, member| {
            match member.as_ref() {
                "name" => name = Some(string(scanner, place.member("name"))?),
                "parameters" => output.parameters = parameters(scanner, place.member("parameters"), limits)?,
                _ => drop(scanner.skip_value()?),
            }
            Ok(())
        })?;
        output.name = name.ok_or_else(|| place.member("name").problem("is missing"))?;
        outputs.push(output);
        Ok(())
    })?;
    Ok(outputs)
}

fn parameters(scanner: &mut Scanner<'_>, place: Place<'_>, limits: &Limits) -> Result<Parameters, DecodeError> {
    let mut found = Parameters::new();
    if scanner.null()? {
        return Ok(found);
    }
    expect(scanner, b'{', place, "an object")?;
    scanner.members(|scanner, name| {
        // KServe's own clients send null for a parameter that is not set.
        if let Some(value) = optional(scanner, |scanner| parameter(scanner, place, &name))? {
            found.insert(name.into_owned(), value);
        }
        if found.len() > limits.parameters_max {
            return Err(DecodeError::TooLarge(format!("{place}: more than {} parameters", limits.parameters_max)));
        }
        Ok(())
    })?;
    Ok(found)
}

fn parameter(scanner: &mut Scanner<'_>, place: Place<'_>, name: &str) -> Result<Parameter, DecodeError> {
    let wrong = |problem: &str| DecodeError::Member { path: format!("{place}.{name}"), problem: problem.to_owned() };
    match scanner.peek() {
        Some(b'"') => Ok(Parameter::String(scanner.string()?.into_owned())),
        Some(b't') => scanner.word("true").map(|()| Parameter::Bool(true)),
        Some(b'f') => scanner.word("false").map(|()| Parameter::Bool(false)),
        Some(b'-' | b'0'..=b'9') => {
            let text = scanner.skip_value()?;
            number_parameter(text).ok_or_else(|| wrong("the number is too large"))
        }
        _ => Err(wrong(&format!("expected a string, a number or a boolean, found {}", scanner.kind()))),
    }
}

fn number_parameter(text: &[u8]) -> Option<Parameter> {
    let is_plain = !text.iter().any(|byte| b".eE".contains(byte));
    match (number::integer::<i64>(text), number::integer::<u64>(text)) {
        (Ok((value, _)), _) if is_plain => Some(Parameter::Int(value)),
        (_, Ok((value, _))) if is_plain => Some(Parameter::Uint(value)),
        _ => number::float64(text).ok().map(|(value, _)| Parameter::Double(value)),
    }
}

fn binary_size(parameters: &Parameters, place: Place<'_>) -> Result<Option<usize>, DecodeError> {
    let size = match parameters.get("binary_data_size") {
        None => return Ok(None),
        Some(Parameter::Int(size)) => usize::try_from(*size).ok(),
        Some(Parameter::Uint(size)) => usize::try_from(*size).ok(),
        Some(_) => None,
    };
    size.map(Some).ok_or_else(|| place.member("parameters.binary_data_size").problem("expected a number of bytes, from 0 up"))
}

fn shape(scanner: &mut Scanner<'_>, place: Place<'_>, limits: &Limits) -> Result<Vec<i64>, DecodeError> {
    expect(scanner, b'[', place, "an array of whole numbers")?;
    let mut dims = Vec::new();
    scanner.items(|scanner, index| {
        check_rank(&place, index + 1, limits)?;
        let found = scanner.kind();
        let text = scanner.skip_value()?;
        let dim = number::integer::<i64>(text).ok().filter(|&(_, length)| length == text.len());
        let wrong =
            || DecodeError::Member { path: format!("{place}[{index}]"), problem: format!("expected a whole number, found {found}") };
        dims.push(dim.ok_or_else(wrong)?.0);
        Ok(())
    })?;
    Ok(dims)
}

fn datatype(scanner: &mut Scanner<'_>, place: Place<'_>) -> Result<DataType, DecodeError> {
    expect(scanner, b'"', place, "a string")?;
    scanner.string()?.parse().map_err(|unknown: UnknownDataType| place.problem(unknown.to_string()))
}

fn string(scanner: &mut Scanner<'_>, place: Place<'_>) -> Result<String, DecodeError> {
    expect(scanner, b'"', place, "a string")?;
    scanner.string().map(std::borrow::Cow::into_owned)
}

/// Reads a value, or `null` as none.
fn optional<'a, T>(
    scanner: &mut Scanner<'a>,
    read: impl FnOnce(&mut Scanner<'a>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if scanner.null()? { Ok(None) } else { read(scanner).map(Some) }
}

/// Makes sure that the next value starts as it should.
fn expect(scanner: &mut Scanner<'_>, first: u8, place: Place<'_>, what: &str) -> Result<(), DecodeError> {
    match scanner.peek() {
        Some(byte) if byte == first => Ok(()),
        Some(b'{' | b'[' | b'"' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9') => {
            Err(place.problem(format!("expected {what}, found {}", scanner.kind())))
        }
        _ => Err(scanner.malformed_here(&format!("expected {what}"))),
    }
}

fn check_rank(name: &dyn std::fmt::Display, rank: usize, limits: &Limits) -> Result<(), DecodeError> {
    if rank > limits.rank_max {
        return Err(DecodeError::TooLarge(format!("`{name}`: more than {} dimensions", limits.rank_max)));
    }
    Ok(())
}

fn check_count(what: &str, index: usize, limits: &Limits) -> Result<(), DecodeError> {
    if index >= limits.tensors_max {
        return Err(DecodeError::TooLarge(format!("more than {} {what}", limits.tensors_max)));
    }
    Ok(())
}
