//! Tensors of a request, turned into the instances that `/predict` takes: the same checks, the same
//! path.

use std::sync::Arc;

use axum::body::Bytes;
use serde_json::{Map, Value, json};

use super::answer::{self, AskedOutput, V2Answer};
use super::binary;
use super::datatype::Datatype;
use crate::artefact::{Input, InputType, Kind, Manifest};
use crate::http::body::refuse_unknown;
use crate::http::infer::Instances;
use crate::json::integer;
use crate::preprocess::{FieldErrors, Location};

/// Most axes of a tensor. More are no tensor but an attempt.
const MAX_AXES: usize = 8;

/// The inputs as the model's metadata lists them: one tensor a field, the number of instances open.
pub(super) fn tensors(manifest: &Manifest) -> Vec<Value> {
    let tensor = |input: &Input| {
        let axes = input.shape.iter().flatten();
        let lengths = axes.map(|length| length.map_or(json!(-1), |length| json!(length)));
        let shape: Vec<Value> = std::iter::once(json!(-1)).chain(lengths).collect();
        json!({"name": input.name, "datatype": Datatype::of(input).name(), "shape": shape})
    };
    manifest.inputs.iter().map(tensor).collect()
}

/// A request of one instance, from the manifest's first golden example.
pub(in crate::http) fn example(manifest: &Manifest) -> Option<Value> {
    let instance = &manifest.golden.first()?.instance;
    let inputs: Vec<Value> = manifest
        .inputs
        .iter()
        .filter_map(|input| {
            let value = match instance {
                Value::Object(fields) => fields.get(&input.name)?,
                text => text,
            };
            let mut shape = vec![1];
            let mut axis = value;
            while let Value::Array(elements) = axis {
                shape.push(elements.len());
                axis = elements.first()?;
            }
            Some(json!({
                "name": input.name, "datatype": Datatype::of(input).name(), "shape": shape,
                "data": [value],
            }))
        })
        .collect();
    Some(json!({"id": "1", "inputs": inputs}))
}

/// The request's instances, and how it wants its answer; or all that is wrong with its tensors.
/// `data` is what follows the JSON: the elements of binary tensors, one tensor after the other.
/// `model` is the name that the body may repeat, as KServe's client does.
pub(super) fn read(
    mut body: Map<String, Value>,
    mut data: Bytes,
    manifest: &Manifest,
    model: &str,
) -> Result<(Instances, V2Answer), FieldErrors> {
    let mut errors = FieldErrors::default();
    let id = match body.remove("id") {
        None => None,
        Some(Value::String(id)) => Some(id),
        Some(_) => {
            errors.push(|| "/id".into(), "a text");
            None
        }
    };
    if body.remove("model_name").is_some_and(|name| name != model) {
        errors.push(|| "/model_name".into(), format!("{model:?}, or nothing"));
    }
    let all_binary = parameters(body.remove("parameters"), "", &mut errors).binary_output;
    let outputs = read_outputs(body.remove("outputs"), all_binary, manifest, &mut errors);
    let given = match body.remove("inputs") {
        Some(Value::Array(tensors)) if !tensors.is_empty() => tensors,
        _ => {
            errors.push(|| "/inputs".into(), "an array of tensors (required)");
            Vec::new()
        }
    };
    refuse_unknown(
        &body,
        "id, model_name, parameters, inputs, outputs",
        &mut errors,
    );
    if given.is_empty() {
        return Err(errors);
    }
    let tensors: Vec<Option<Tensor>> = given
        .into_iter()
        .enumerate()
        .map(|(index, tensor)| Tensor::read(index, tensor, &mut data, &mut errors))
        .collect();
    if !data.is_empty() {
        let expected = "the lengths of all binary tensors: some bytes belong to none";
        errors.push(|| "/inputs".into(), expected);
    }
    let broken = tensors.iter().any(Option::is_none);
    let tensors: Vec<Tensor> = tensors.into_iter().flatten().collect();
    let columns = columns(tensors, manifest, broken, &mut errors);
    if errors.total > 0 {
        return Err(errors);
    }
    let instances = Instances {
        values: Some(instances(&columns, manifest)),
        location: Location::List(""),
        errors,
        places: Some(Box::new(move |pointer| place(&columns, pointer))),
    };
    let answer = V2Answer {
        id,
        outputs,
        all_binary: all_binary.unwrap_or(false),
    };
    Ok((instances, answer))
}

fn read_outputs(
    given: Option<Value>,
    all_binary: Option<bool>,
    manifest: &Manifest,
    errors: &mut FieldErrors,
) -> Option<Vec<AskedOutput>> {
    let Value::Array(given) = given? else {
        errors.push(|| "/outputs".into(), "an array of objects with a name");
        return None;
    };
    let known = answer::names(manifest);
    let mut asked = Vec::new();
    for (index, output) in given.into_iter().enumerate() {
        let at = format!("/outputs/{index}");
        let Value::Object(mut output) = output else {
            errors.push(|| at, "an object with a name");
            continue;
        };
        let given = parameters(output.remove("parameters"), &at, errors);
        let binary = given.binary.or(all_binary).unwrap_or(false);
        match output.remove("name") {
            Some(Value::String(name))
                if known.as_ref().is_none_or(|known| known.contains(&name)) =>
            {
                asked.push(AskedOutput { name, binary });
            }
            _ => {
                let expected = known.as_ref().map_or("a text".into(), |known| {
                    format!("one of {}", known.join(", "))
                });
                errors.push(|| format!("{at}/name"), expected);
            }
        }
        refuse_rest(&output, &at, "name, parameters", errors);
    }
    // An empty list asks for nothing in particular.
    (!asked.is_empty()).then_some(asked)
}

/// What the parameters of a request, a tensor or an output mean.
#[derive(Default)]
struct Parameters {
    /// Whether this output is to be binary.
    binary: Option<bool>,
    /// Whether all outputs are, but for those that say otherwise.
    binary_output: Option<bool>,
    /// Bytes of this input, where it is binary.
    binary_size: Option<usize>,
}

/// Parameters are scalars. Those of the binary extension have a meaning, and one of Triton's would
/// change the answer; others have none here.
fn parameters(given: Option<Value>, at: &str, errors: &mut FieldErrors) -> Parameters {
    let mut known = Parameters::default();
    let given = match given {
        None => return known,
        Some(Value::Object(given)) => given,
        Some(_) => {
            errors.push(|| format!("{at}/parameters"), "an object");
            return known;
        }
    };
    for (name, value) in &given {
        let truth = "true or false";
        let expected = match name.as_str() {
            "binary_data" => {
                known.binary = value.as_bool();
                known.binary.is_none().then_some(truth)
            }
            "binary_data_output" => {
                known.binary_output = value.as_bool();
                known.binary_output.is_none().then_some(truth)
            }
            "binary_data_size" if !at.starts_with("/inputs") => {
                Some("nothing: only inputs say how long they are")
            }
            "binary_data_size" => {
                let size = integer(value).and_then(|size| usize::try_from(size).ok());
                known.binary_size = size;
                size.is_none().then_some("a number of bytes")
            }
            "classification" => (integer(value) != Some(0))
                .then_some("nothing: the classification extension is not offered"),
            _ => (value.is_null() || value.is_array() || value.is_object())
                .then_some("a text, a number, true or false"),
        };
        if let Some(expected) = expected {
            let field = || crate::preprocess::pointer(&format!("{at}/parameters"), name);
            errors.push(field, expected);
        }
    }
    known
}

fn refuse_rest(rest: &Map<String, Value>, at: &str, known: &str, errors: &mut FieldErrors) {
    for name in rest.keys() {
        errors.push(
            || crate::preprocess::pointer(at, name),
            format!("no such field; the fields are {known}"),
        );
    }
}

/// A tensor whose shape, type and elements agree.
struct Tensor {
    /// Its place in the request.
    index: usize,
    name: String,
    datatype: Datatype,
    shape: Vec<usize>,
    /// Row by row.
    data: Vec<Value>,
    /// Whether the request nests its rows, for the pointers in errors.
    nested: bool,
}

impl Tensor {
    /// A tensor of the request; takes its bytes from the front of `binary` where it has no `data`.
    fn read(
        index: usize,
        given: Value,
        binary: &mut Bytes,
        errors: &mut FieldErrors,
    ) -> Option<Self> {
        let before = errors.total;
        let at = format!("/inputs/{index}");
        let Value::Object(mut given) = given else {
            errors.push(
                || at,
                "an object with the fields name, shape, datatype, data",
            );
            return None;
        };
        let size = parameters(given.remove("parameters"), &at, errors).binary_size;
        let mut expect = |holds: bool, field: &str, expected: &str| {
            if !holds {
                errors.push(|| format!("{at}/{field}"), expected);
            }
        };
        let name = match given.remove("name") {
            Some(Value::String(name)) => Some(name),
            _ => None,
        };
        expect(name.is_some(), "name", "a text (required)");
        let datatype = given
            .remove("datatype")
            .and_then(|name| Datatype::parse(name.as_str()?));
        expect(
            datatype.is_some(),
            "datatype",
            "BOOL, UINT8 to UINT64, INT8 to INT64, FP16, FP32, FP64 or BYTES (required)",
        );
        let shape = given.remove("shape").and_then(|shape| read_shape(&shape));
        expect(
            shape.is_some(),
            "shape",
            "an array of 1 to 8 lengths, each an integer of at least 1 (required)",
        );
        let data = match (given.remove("data"), size) {
            (Some(Value::Array(data)), None) => Some(data),
            (None, Some(size)) => {
                let bytes = (size <= binary.len()).then(|| binary.split_to(size));
                let elements = bytes.and_then(|bytes| binary::elements(datatype?, &bytes));
                let expected = "the bytes of the tensor's elements, which follow the JSON, each \
                                a number or a text in UTF-8";
                let field = "parameters/binary_data_size";
                expect(elements.is_some() || datatype.is_none(), field, expected);
                elements
            }
            (_, size) => {
                let expected = match size {
                    None => "an array (required)",
                    Some(_) => "nothing beside binary_data_size",
                };
                expect(false, "data", expected);
                None
            }
        };
        refuse_rest(
            &given,
            &at,
            "name, shape, datatype, parameters, data",
            errors,
        );
        let (shape, datatype, data) = (shape?, datatype?, data?);
        let nested = data.first().is_some_and(Value::is_array);
        let Some(data) = flatten(data, &shape, nested) else {
            let expected = "as many elements as the shape says, flat or nested like it";
            errors.push(|| format!("{at}/data"), expected);
            return None;
        };
        let tensor = Self {
            index,
            name: name?,
            datatype,
            shape,
            data,
            nested,
        };
        for (position, value) in tensor.data.iter().enumerate() {
            // A missing value: the protocol has none, but a nullable field has.
            if !datatype.holds(value) && !value.is_null() {
                let expected = format!("an element of {}", datatype.name());
                errors.push(|| tensor.pointer(position), expected);
            }
        }
        (errors.total == before).then_some(tensor)
    }

    /// Elements of one instance.
    fn stride(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// The pointer of an element.
    fn pointer(&self, position: usize) -> String {
        let data = format!("/inputs/{}/data", self.index);
        if !self.nested {
            return format!("{data}/{position}");
        }
        let mut rest = position;
        let mut path = String::new();
        for length in self.shape.iter().rev() {
            path = format!("/{}{path}", rest % length);
            rest /= length;
        }
        data + &path
    }
}

fn read_shape(given: &Value) -> Option<Vec<usize>> {
    let lengths = given.as_array()?;
    let length = |length: &Value| {
        let number = length.as_f64().filter(|number| number.fract() == 0.0)?;
        (1.0..=f64::from(u32::MAX))
            .contains(&number)
            .then_some(number as usize)
    };
    (1..=MAX_AXES)
        .contains(&lengths.len())
        .then(|| lengths.iter().map(length).collect())?
}

/// The elements row by row, if they are exactly those of the shape.
fn flatten(data: Vec<Value>, shape: &[usize], nested: bool) -> Option<Vec<Value>> {
    let expected = shape
        .iter()
        .try_fold(1_usize, |product, length| product.checked_mul(*length))?;
    let mut level = data;
    if nested {
        for axis in 1..shape.len() {
            if level.len() != shape[..axis].iter().product::<usize>() {
                return None;
            }
            let mut inner = Vec::new();
            for value in level {
                match value {
                    Value::Array(elements) if elements.len() == shape[axis] => {
                        inner.extend(elements);
                    }
                    _ => return None,
                }
            }
            level = inner;
        }
    }
    let flat = level.len() == expected && !level.iter().any(Value::is_array);
    flat.then_some(level)
}

/// Where a field's values are.
struct Column {
    /// The field's index in the manifest.
    input: usize,
    /// The field's name as a part of a JSON pointer.
    name: String,
    /// The tensor, which several columns share where one holds all fields.
    tensor: Arc<Tensor>,
    /// Elements from one instance to the next.
    stride: usize,
    /// The field's first element in an instance.
    offset: usize,
}

/// Finds each field's values: in its own tensor, or in the one that holds all of them.
fn columns(
    tensors: Vec<Tensor>,
    manifest: &Manifest,
    broken: bool,
    errors: &mut FieldErrors,
) -> Vec<Column> {
    let inputs = &manifest.inputs;
    let mut columns: Vec<Column> = Vec::new();
    if let [only] = tensors.as_slice()
        && !broken
        && is_table(only, manifest)
    {
        let tensor = tensors.into_iter().next().map(Arc::new);
        let stride = inputs.len();
        return tensor
            .iter()
            .flat_map(|tensor| {
                inputs.iter().enumerate().map(move |(input, field)| Column {
                    input,
                    name: crate::preprocess::escape(&field.name),
                    tensor: Arc::clone(tensor),
                    stride,
                    offset: input,
                })
            })
            .collect();
    }
    let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    let mut rows = None;
    for tensor in tensors {
        let at = tensor.index;
        let Some(index) = names.iter().position(|name| *name == tensor.name) else {
            let expected = format!("one of {}", names.join(", "));
            errors.push(|| format!("/inputs/{at}/name"), expected);
            continue;
        };
        if columns.iter().any(|column| column.input == index) {
            errors.push(
                || format!("/inputs/{at}/name"),
                "each tensor once; this one is there twice",
            );
            continue;
        }
        let input = &inputs[index];
        if !tensor.datatype.fits(input) {
            let expected = format!("{}, or a like type", Datatype::of(input).name());
            errors.push(|| format!("/inputs/{at}/datatype"), expected);
        }
        let rows = *rows.get_or_insert(tensor.shape[0]);
        if !has_shape(&tensor, input, rows) {
            let expected = describe_shape(input);
            errors.push(|| format!("/inputs/{at}/shape"), expected);
        }
        let stride = tensor.stride();
        columns.push(Column {
            input: index,
            name: crate::preprocess::escape(&input.name),
            tensor: Arc::new(tensor),
            stride,
            offset: 0,
        });
    }
    // What a broken tensor was meant to be is not known: its field is not called missing.
    for (index, input) in inputs.iter().enumerate().filter(|_| !broken) {
        if !input.nullable && !columns.iter().any(|column| column.input == index) {
            let expected = format!("a tensor named {} (required)", input.name);
            errors.push(|| "/inputs".into(), expected);
        }
    }
    columns
}

/// Whether one tensor holds all fields, in the manifest's order, each as a number.
fn is_table(tensor: &Tensor, manifest: &Manifest) -> bool {
    let inputs = &manifest.inputs;
    manifest.kind == Kind::Tabular
        && tensor.shape.len() == 2
        && tensor.shape[1] == inputs.len()
        && !inputs.iter().any(|input| input.name == tensor.name)
        && inputs.iter().all(|input| {
            let number = matches!(input.kind, InputType::Number | InputType::Integer);
            number && !matches!(tensor.datatype, Datatype::Bool | Datatype::Bytes)
        })
}

fn has_shape(tensor: &Tensor, input: &Input, rows: usize) -> bool {
    let own = &tensor.shape[1..];
    let fits = match &input.shape {
        Some(axes) => {
            axes.len() == own.len()
                && axes
                    .iter()
                    .zip(own)
                    .all(|(axis, length)| axis.is_none_or(|axis| axis == *length))
        }
        None => own.iter().all(|length| *length == 1) && own.len() <= 1,
    };
    fits && tensor.shape[0] == rows
}

fn describe_shape(input: &Input) -> String {
    let shape = match &input.shape {
        Some(axes) => {
            let axes: String = axes
                .iter()
                .map(|axis| axis.map_or(", any".into(), |length| format!(", {length}")))
                .collect();
            format!("[n{axes}]")
        }
        None => "[n] or [n, 1]".to_owned(),
    };
    format!("{shape}, of the same n instances in every tensor")
}

/// The instances as `/predict` takes them.
fn instances(columns: &[Column], manifest: &Manifest) -> Vec<Value> {
    let rows = columns.first().map_or(0, |column| column.tensor.shape[0]);
    (0..rows)
        .map(|row| {
            if manifest.kind == Kind::Text {
                return columns
                    .first()
                    .map_or(Value::Null, |column| column.value(row, manifest));
            }
            columns
                .iter()
                .map(|column| {
                    let name = manifest.inputs[column.input].name.clone();
                    (name, column.value(row, manifest))
                })
                .collect()
        })
        .collect()
}

impl Column {
    fn value(&self, row: usize, manifest: &Manifest) -> Value {
        let start = row * self.stride + self.offset;
        match manifest.inputs[self.input].kind {
            InputType::Tensor => nest(
                &self.tensor.data[start..start + self.stride],
                &self.tensor.shape[1..],
            ),
            _ => self.tensor.data[start].clone(),
        }
    }
}

fn nest(elements: &[Value], shape: &[usize]) -> Value {
    match shape {
        [] => elements.first().cloned().unwrap_or_default(),
        [_] => Value::Array(elements.to_vec()),
        [length, inner @ ..] => elements
            .chunks((elements.len() / length).max(1))
            .map(|chunk| nest(chunk, inner))
            .collect(),
    }
}

/// The pointer into the request of what is `/row`, `/row/field` or deeper in the instances.
fn place(columns: &[Column], pointer: &str) -> String {
    let mut parts = pointer.splitn(3, '/').skip(1);
    let row: Option<usize> = parts.next().and_then(|row| row.parse().ok());
    let column = match parts.next() {
        None => columns.first(),
        Some(field) => columns.iter().find(|column| {
            let rest = field.strip_prefix(column.name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }),
    };
    match (row, column) {
        (Some(row), Some(column)) => column.tensor.pointer(row * column.stride + column.offset),
        _ => "/inputs".to_owned(),
    }
}
