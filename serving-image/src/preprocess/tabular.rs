//! Named fields: encoded, laid out as rows, and scaled, as scikit-learn's `ColumnTransformer` does.

use serde_json::Value;

use super::errors::{FieldErrors, Location};
use super::field::{Cell, Field, read_object};
use super::{Batch, FieldColumn, Rows};
use crate::artefact::{InputType, Manifest, Scalar, Scaler, Scaling as ScalingStep, Step};

/// The steps of a tabular model, resolved.
#[derive(Debug)]
pub(super) struct Tabular {
    pub(super) fields: Vec<Field>,
    /// None where the network takes the fields themselves.
    layout: Option<Layout>,
}

/// How a row of numbers is made of the fields.
#[derive(Debug)]
struct Layout {
    sources: Vec<Source>,
    width: usize,
    scalers: Vec<InColumn>,
}

/// What writes the next numbers of a row.
#[derive(Debug)]
struct Source {
    field: usize,
    encoding: Encoding,
}

#[derive(Debug)]
enum Encoding {
    /// The number itself.
    Number,
    /// 1 in the column of the value's category, which is its place in this list.
    OneHot(Vec<Scalar>),
    /// The place of the value's category in the list.
    Ordinal {
        categories: Vec<Scalar>,
        /// Stands for a value without a category.
        unknown: f64,
    },
}

/// One scaling step for one column of the row.
#[derive(Debug, Clone, Copy)]
struct InColumn {
    column: usize,
    scaling: Scaling,
}

/// In scikit-learn's own order of operations, in 64-bit floats as there.
#[derive(Debug, Clone, Copy)]
enum Scaling {
    /// `(x − center) / scale`
    Center { center: f64, scale: f64 },
    /// `x · factor + offset`
    Range { factor: f64, offset: f64 },
    /// Not below the first, not above the second.
    Clip([f64; 2]),
}

impl Scaling {
    fn apply(self, x: f64) -> f64 {
        match self {
            Self::Center { center, scale } => (x - center) / scale,
            Self::Range { factor, offset } => x * factor + offset,
            Self::Clip([min, max]) => x.clamp(min, max),
        }
    }
}

impl Encoding {
    fn columns(&self) -> usize {
        match self {
            Self::Number | Self::Ordinal { .. } => 1,
            Self::OneHot(categories) => categories.len(),
        }
    }

    fn write(&self, cell: Cell<'_>, row: &mut Vec<f64>) {
        let place = |categories: &[Scalar]| categories.iter().position(|one| one.cell() == cell);
        match self {
            Self::Number => row.push(match cell {
                Cell::Number(number) => number,
                Cell::Text(_) => f64::NAN, // a manifest with a text that nothing encodes is refused
            }),
            Self::OneHot(categories) => {
                let start = row.len();
                row.resize(start + categories.len(), 0.0);
                // A value without a column, dropped or unknown, leaves zeros.
                if let Some(column) = place(categories) {
                    row[start + column] = 1.0;
                }
            }
            Self::Ordinal {
                categories,
                unknown,
            } => row.push(place(categories).map_or(*unknown, |place| place as f64)),
        }
    }
}

impl Tabular {
    pub(super) fn new(manifest: &Manifest) -> Self {
        Self {
            fields: Field::all(manifest),
            layout: manifest.order().map(|order| Layout::new(manifest, order)),
        }
    }

    /// One row, or one value of each column, for every instance that has no error.
    pub(super) fn prepare(
        &self,
        instances: &[Value],
        location: Location,
        errors: &mut FieldErrors,
    ) -> Batch {
        let mut sink = match &self.layout {
            Some(layout) => Batch::Features(Rows::with_capacity(layout.width, instances.len())),
            None => Batch::Fields(self.columns(instances.len())),
        };
        let mut cells = Vec::with_capacity(self.fields.len());
        let mut row = Vec::with_capacity(self.layout.as_ref().map_or(0, |layout| layout.width));
        for (index, instance) in instances.iter().enumerate() {
            cells.clear();
            let pointer = || location.pointer(index);
            read_object(&self.fields, instance, pointer, errors, |field, value| {
                cells.push(field.read(value)?);
                Ok(())
            });
            if cells.len() < self.fields.len() {
                continue; // what is wrong is in the errors, which refuse the request
            }
            match (&self.layout, &mut sink) {
                (Some(layout), Batch::Features(rows)) => {
                    layout.write(&cells, &mut row);
                    rows.values.extend(row.iter().map(|number| *number as f32));
                }
                (_, Batch::Fields(columns)) => {
                    for (column, cell) in columns.iter_mut().zip(&cells) {
                        column.push(*cell);
                    }
                }
                _ => {}
            }
        }
        sink
    }

    fn columns(&self, capacity: usize) -> Vec<FieldColumn> {
        let column = |field: &Field| match field.input.kind {
            InputType::String => FieldColumn::Texts(Vec::with_capacity(capacity)),
            _ => FieldColumn::Numbers(Vec::with_capacity(capacity)),
        };
        self.fields.iter().map(column).collect()
    }
}

impl Layout {
    fn new(manifest: &Manifest, order: &[String]) -> Self {
        let place = |name: &String| manifest.inputs.iter().position(|input| input.name == *name);
        let sources: Vec<Source> = order
            .iter()
            .filter_map(|name| {
                Some(Source {
                    field: place(name)?,
                    encoding: encoding(manifest, name),
                })
            })
            .collect();
        // Where each field of the order begins in the row.
        let mut starts = Vec::with_capacity(sources.len());
        let mut width = 0;
        for source in &sources {
            starts.push(width);
            width += source.encoding.columns();
        }
        let columns = |named: &[String]| -> Vec<usize> {
            if named.is_empty() {
                return (0..width).collect();
            }
            let column = |name: &String| Some(starts[order.iter().position(|one| one == name)?]);
            named.iter().filter_map(column).collect()
        };
        let mut scalers = Vec::new();
        for scaler in manifest.preprocessing.iter().filter_map(Step::scaler) {
            for (column, scalings) in columns(scaler.features).into_iter().zip(scalings(scaler)) {
                let in_column = |scaling| InColumn { column, scaling };
                scalers.extend(scalings.into_iter().map(in_column));
            }
        }
        Self {
            sources,
            width,
            scalers,
        }
    }

    fn write(&self, cells: &[Cell<'_>], row: &mut Vec<f64>) {
        row.clear();
        for source in &self.sources {
            source.encoding.write(cells[source.field], row);
        }
        for InColumn { column, scaling } in &self.scalers {
            row[*column] = scaling.apply(row[*column]);
        }
    }
}

/// What the steps make of a field.
fn encoding(manifest: &Manifest, name: &str) -> Encoding {
    let encoder = manifest.preprocessing.iter().find_map(|step| match step {
        Step::OneHot {
            categories, drop, ..
        } => {
            let columns = drop.columns(categories.get(name)?);
            Some(Encoding::OneHot(columns.to_vec()))
        }
        Step::Ordinal {
            categories,
            unknown,
        } => Some(Encoding::Ordinal {
            categories: categories.get(name)?.clone(),
            unknown: unknown.unwrap_or(f64::NAN), // never seen: all allowed values have a category
        }),
        _ => None,
    });
    encoder.unwrap_or(Encoding::Number)
}

/// What a scaling step does to each of its fields, one after the other.
fn scalings(scaler: Scaler<'_>) -> impl Iterator<Item = Vec<Scaling>> {
    let [(_, first), (_, second)] = scaler.parameters;
    let pairs = first.iter().copied().zip(second.iter().copied());
    pairs.map(move |(first, second)| match scaler.scaling {
        ScalingStep::Center => vec![Scaling::Center {
            center: first,
            scale: second,
        }],
        ScalingStep::Range { range, clip } => {
            let factor = (range[1] - range[0]) / (second - first);
            let offset = range[0] - first * factor;
            let mut scalings = vec![Scaling::Range { factor, offset }];
            scalings.extend(clip.then_some(Scaling::Clip(range)));
            scalings
        }
    })
}
