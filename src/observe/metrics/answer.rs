//! The answer of Prometheus' query API, read with suspicion.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::source::Labels;
use crate::evidence::{BlindReason, shortened};

/// Samples of a range selector.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix(pub Vec<Series>);

/// One series and its samples.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    pub labels: Labels,
    /// Oldest first.
    pub samples: Vec<Sample>,
}

/// One scraped value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Unix time in milliseconds.
    pub ms: i64,
    /// As scraped; may be anything that a float can be.
    pub value: f64,
}

/// The label sets of an instant vector, without its values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Vector(pub Vec<Labels>);

/// An instant vector.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Values(pub Vec<(Labels, f64)>);

impl Series {
    /// The metric's name, or `""`.
    pub(super) fn name(&self) -> &str {
        self.labels.get("__name__").map_or("", String::as_str)
    }
}

impl Matrix {
    /// Reads the body of a 200.
    pub(super) fn parse(body: &[u8]) -> Result<Self, BlindReason> {
        match data_of(body)? {
            Data::Matrix(series) => series
                .into_iter()
                .map(Series::try_from)
                .collect::<Result<_, _>>()
                .map(Self),
            other => Err(wrong_type(&other, "matrix")),
        }
    }
}

impl Vector {
    /// Reads the body of a 200.
    pub(super) fn parse(body: &[u8]) -> Result<Self, BlindReason> {
        match data_of(body)? {
            Data::Vector(series) => Ok(Self(series.into_iter().map(|s| s.metric).collect())),
            other => Err(wrong_type(&other, "vector")),
        }
    }
}

impl Values {
    /// Reads the body of a 200.
    pub(super) fn parse(body: &[u8]) -> Result<Self, BlindReason> {
        match data_of(body)? {
            Data::Vector(series) => series
                .into_iter()
                .map(|series| {
                    let value = series.value.map(|(_, text)| parsed(&text)).transpose()?;
                    // Absent where the sample is a native histogram.
                    let value = value.ok_or_else(|| BlindReason::bad_answer("a histogram"))?;
                    Ok((series.metric, value))
                })
                .collect::<Result<_, _>>()
                .map(Self),
            other => Err(wrong_type(&other, "vector")),
        }
    }
}

/// The one finite value of an instant vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Single(pub f64);

impl Single {
    /// Reads the body of a 200.
    pub(super) fn parse(body: &[u8]) -> Result<Self, BlindReason> {
        let data = data_of(body)?;
        if !matches!(data, Data::Vector(_)) {
            return Err(BlindReason::QueryGaveType {
                found: data.type_name().to_owned(),
            });
        }
        let values = Values::parse(body)?.0;
        match values.as_slice() {
            [] => Err(BlindReason::QueryGaveNothing),
            [(_, value)] if value.is_finite() => Ok(Self(*value)),
            [(_, value)] => Err(BlindReason::QueryGaveNotFinite {
                value: value.to_string(),
            }),
            several => Err(BlindReason::QueryGaveSeveral {
                count: several.len(),
            }),
        }
    }
}

/// A value as Prometheus prints it.
fn parsed(text: &str) -> Result<f64, BlindReason> {
    text.parse()
        .map_err(|_| BlindReason::bad_answer(&format!("the value {text:?} is no number")))
}

/// What Prometheus says in the body of an error, if it is one of its own.
pub(super) fn error_message(body: &[u8]) -> String {
    let envelope = serde_json::from_slice::<Envelope>(body);
    match envelope.ok().and_then(|envelope| envelope.error) {
        Some(message) => shortened(&message),
        None => shortened(&String::from_utf8_lossy(body)),
    }
}

#[derive(Deserialize)]
struct Envelope {
    status: String,
    data: Option<Data>,
    error: Option<String>,
    /// Data may be partial. Its neighbour `infos` never says that, and is not read.
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Matrix(Vec<RawSeries>),
    Vector(Vec<RawSample>),
    Scalar(IgnoredAny),
    String(IgnoredAny),
}

impl Data {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Matrix(_) => "matrix",
            Self::Vector(_) => "vector",
            Self::Scalar(_) => "scalar",
            Self::String(_) => "string",
        }
    }
}

#[derive(Deserialize)]
struct RawSample {
    metric: Labels,
    #[serde(default)]
    value: Option<(f64, String)>,
}

#[derive(Deserialize)]
struct RawSeries {
    metric: Labels,
    /// Absent where all samples are native histograms.
    #[serde(default)]
    values: Vec<(f64, String)>,
    /// Native histograms, of which no query of ours asks.
    #[serde(default)]
    histograms: Vec<IgnoredAny>,
}

impl TryFrom<RawSeries> for Series {
    type Error = BlindReason;

    fn try_from(raw: RawSeries) -> Result<Self, BlindReason> {
        let labels = raw.metric;
        if !raw.histograms.is_empty() {
            let name = labels.get("__name__").map_or("a series", String::as_str);
            return Err(BlindReason::bad_answer(&format!(
                "{name} is a native histogram"
            )));
        }
        let mut samples = raw
            .values
            .into_iter()
            .map(|(seconds, value)| {
                let value = parsed(&value)?;
                let ms = (seconds * 1000.0).round() as i64;
                Ok(Sample { ms, value })
            })
            .collect::<Result<Vec<_>, BlindReason>>()?;
        samples.sort_by_key(|sample| sample.ms);
        Ok(Self { labels, samples })
    }
}

/// The data of a whole and successful answer.
fn data_of(body: &[u8]) -> Result<Data, BlindReason> {
    let envelope: Envelope =
        serde_json::from_slice(body).map_err(|error| BlindReason::bad_answer(&error))?;
    if envelope.status != "success" {
        let error = envelope.error.unwrap_or(envelope.status);
        return Err(BlindReason::bad_answer(&error));
    }
    if let Some(first) = envelope.warnings.first() {
        return Err(BlindReason::Warnings {
            first: shortened(first),
        });
    }
    envelope
        .data
        .ok_or_else(|| BlindReason::bad_answer("no data"))
}

fn wrong_type(data: &Data, expected: &str) -> BlindReason {
    BlindReason::bad_answer(&format!("a {} instead of a {expected}", data.type_name()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn blind(body: &str) -> String {
        Matrix::parse(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_matrix_is_read_with_its_milliseconds() {
        let body = br#"{"status":"success","infos":["x"],"data":{"resultType":"matrix","result":[
            {"metric":{"__name__":"up","instance":"a"},
             "values":[[1700000015.125,"1"],[1700000000.001,"NaN"]]}]}}"#;
        let matrix = Matrix::parse(body).unwrap();
        let series = &matrix.0[0];
        assert_eq!(series.name(), "up");
        assert_eq!(
            series.samples[1],
            Sample {
                ms: 1_700_000_015_125,
                value: 1.0
            }
        );
        assert_eq!(series.samples[0].ms, 1_700_000_000_001);
        assert!(series.samples[0].value.is_nan());
    }

    #[test]
    fn an_empty_matrix_is_an_answer() {
        let body = br#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        assert_eq!(Matrix::parse(body).unwrap(), Matrix(Vec::new()));
    }

    #[test]
    fn all_else_is_no_evidence() {
        for (body, said) in [
            ("", "EOF"),
            ("<html>", "expected value"),
            ("{}", "status"),
            (r#"{"status":"success"}"#, "no data"),
            (
                r#"{"status":"error","errorType":"execution","error":"too many samples"}"#,
                "too many samples",
            ),
            (
                r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#,
                "a scalar instead of a matrix",
            ),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#,
                "a vector instead of a matrix",
            ),
            (
                r#"{"status":"success","data":{"resultType":"matrix","result":{}}}"#,
                "invalid type",
            ),
            (
                r#"{"status":"success","data":{"resultType":"matrix","result":[
                    {"metric":{},"values":[[1,"x"]]}]}}"#,
                "no number",
            ),
            (
                r#"{"status":"success","data":{"resultType":"matrix","result":[
                    {"metric":{},"histograms":[[1,{}]]}]}}"#,
                "native histogram",
            ),
            (
                r#"{"status":"success","warnings":["store b: timeout"],
                    "data":{"resultType":"matrix","result":[]}}"#,
                "store b: timeout",
            ),
        ] {
            assert!(blind(body).contains(said), "{body}: {}", blind(body));
        }
    }

    #[test]
    fn a_query_must_give_one_finite_value() {
        let vector = |values: &str| {
            let body = format!(
                r#"{{"status":"success","data":{{"resultType":"vector","result":[{values}]}}}}"#
            );
            Single::parse(body.as_bytes())
        };
        let one = |value: &str| format!(r#"{{"metric":{{}},"value":[1,"{value}"]}}"#);
        assert_eq!(vector(&one("-2.5")), Ok(Single(-2.5)));
        assert_eq!(vector(""), Err(BlindReason::QueryGaveNothing));
        let two = format!("{},{}", one("1"), one("1"));
        assert_eq!(
            vector(&two),
            Err(BlindReason::QueryGaveSeveral { count: 2 })
        );
        for value in ["NaN", "+Inf", "-Inf"] {
            let said = vector(&one(value)).unwrap_err();
            assert!(
                matches!(said, BlindReason::QueryGaveNotFinite { .. }),
                "{said}"
            );
        }
        for (data, found) in [
            (r#"{"resultType":"scalar","result":[1,"1"]}"#, "scalar"),
            (r#"{"resultType":"string","result":[1,"1"]}"#, "string"),
            (r#"{"resultType":"matrix","result":[]}"#, "matrix"),
        ] {
            let body = format!(r#"{{"status":"success","data":{data}}}"#);
            let found = found.to_owned();
            let said = Single::parse(body.as_bytes());
            assert_eq!(said, Err(BlindReason::QueryGaveType { found }));
        }
    }

    #[test]
    fn an_error_is_quoted_from_prometheus_or_from_what_stands_before_it() {
        assert_eq!(
            error_message(br#"{"status":"error","error":"query timed out"}"#),
            "query timed out"
        );
        assert_eq!(
            error_message(b"no healthy upstream\n"),
            "no healthy upstream"
        );
    }
}
