//! The layers of the encoder. Threads wait for each other twice per layer, to sum their parts.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Storage, Tensor, bail};
use serin_kernels::{Aligned, Attention, Grid, Machine, Normalize, Packed, Product, Then};

use super::config::Config;
use super::family::TokenTypes;
use super::thread_pool::StepPool;
use super::weights::Weights;
use crate::preprocess::Tokens;

/// Features of the wide layer that are computed and consumed at a time, so that they never leave
/// the cache.
const WIDE_FEATURES: usize = 192;

/// Embeddings and layers.
#[derive(Debug)]
pub(super) struct Encoder {
    /// Vocabulary × hidden.
    words: Tensor,
    /// Positions × hidden.
    positions: Vec<f32>,
    /// The token that takes no position of its own, where positions follow its id.
    padding: Option<usize>,
    /// Token types × hidden.
    types: Vec<f32>,
    /// Whether the tokeniser says which type a token is of; else all are of the first.
    reads_types: bool,
    norm: Norm,
    layers: Vec<Layer>,
    hidden: usize,
    machine: Machine,
}

#[derive(Debug)]
struct Layer {
    /// Queries, keys and values of head 0, then those of head 1, and so on: a thread takes
    /// neighbouring heads.
    qkv: Linear,
    heads: usize,
    width: usize,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

#[derive(Debug)]
struct Linear {
    weight: Packed,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct Norm {
    weight: Vec<f32>,
    shift: Vec<f32>,
    epsilon: f32,
}

/// What threads do together.
struct Step {
    /// The last step's output.
    x: Aligned,
    layer: usize,
    half: Half,
    /// What is one part.
    shares: Vec<Range<usize>>,
}

/// A layer's halves.
#[derive(Debug, Clone, Copy)]
enum Half {
    Attention,
    FeedForward,
}

/// What the encoder makes of some texts.
#[derive(Debug)]
pub(super) struct Hidden {
    /// `hidden` features a token.
    pub(super) values: Aligned,
    /// Its layout.
    pub(super) grid: Grid,
    /// Each text's tokens.
    pub(super) texts: Arc<[Range<usize>]>,
    /// Features.
    pub(super) features: usize,
}

impl Encoder {
    pub(super) fn load(weights: &Weights, config: &Config) -> Result<Self> {
        let machine = Machine::detect();
        let hidden = config.hidden_size;
        let embedding = |name: &str| weights.encoder(&format!("embeddings.{name}.weight"));
        let words = embedding("word_embeddings")?.contiguous()?;
        if words.dims2()?.1 != hidden {
            bail!("embeddings.word_embeddings.weight has another width than hidden_size");
        }
        let positions = embedding("position_embeddings")?;
        if positions.dims() != [config.max_position_embeddings, hidden] {
            bail!("max_position_embeddings is not the length of the position embeddings");
        }
        let family = weights.family;
        let types = match family.token_types {
            TokenTypes::Absent => vec![0.0; hidden],
            TokenTypes::Tokenizer | TokenTypes::Zero => {
                let types = embedding("token_type_embeddings")?;
                if types.dims2()?.1 != hidden {
                    bail!(
                        "embeddings.token_type_embeddings.weight has another width than hidden_size"
                    );
                }
                types.flatten_all()?.to_vec1()?
            }
        };
        Ok(Self {
            words,
            positions: positions.flatten_all()?.to_vec1()?,
            padding: config.padding(family),
            types,
            reads_types: family.token_types == TokenTypes::Tokenizer,
            norm: Norm::load(weights, "embeddings.LayerNorm", config)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::load(weights, index, config, machine))
                .collect::<Result<_>>()?,
            hidden,
            machine,
        })
    }

    /// The last layer's output for some texts, computed by that many threads.
    pub(super) fn forward(self: &Arc<Self>, texts: &[Tokens], threads: usize) -> Result<Hidden> {
        let mut end = 0;
        let ranges = texts.iter().map(|text| {
            end += text.ids.len();
            end - text.ids.len()..end
        });
        let ranges: Arc<[Range<usize>]> = ranges.collect();
        let grid = Grid::new(end, self.machine.lanes);
        let mut x = Aligned::zeros(grid.len(self.hidden));
        self.embed(texts, &ranges, grid, &mut x)?;
        self.norm.apply(&mut x, &[], &[], grid);

        let (encoder, texts) = (Arc::clone(self), Arc::clone(&ranges));
        let pool = StepPool::start(threads, move |step: &Step, part| {
            let (layer, share) = (&encoder.layers[step.layer], step.shares[part].clone());
            match step.half {
                Half::Attention => layer.attend(&step.x, grid, &texts, share),
                Half::FeedForward => layer.feed_forward(&step.x, grid, share),
            }
        });
        for (index, layer) in self.layers.iter().enumerate() {
            for half in [Half::Attention, Half::FeedForward] {
                let shares = shares(layer.divisible(half), threads);
                let parts = shares.len();
                let step = Step {
                    x,
                    layer: index,
                    half,
                    shares,
                };
                let (step, partial) = pool.run(step, parts);
                x = step.x;
                let (bias, norm) = layer.after(half);
                norm.apply(&mut x, bias, &partial, grid);
            }
        }
        Ok(Hidden {
            values: x,
            grid,
            texts: ranges,
            features: self.hidden,
        })
    }

    /// The sums of word, position and type embeddings.
    fn embed(
        &self,
        texts: &[Tokens],
        ranges: &[Range<usize>],
        grid: Grid,
        x: &mut [f32],
    ) -> Result<()> {
        let (storage, layout) = self.words.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            bail!("the word embeddings are not in the CPU's memory");
        };
        let words = &storage.as_slice::<f32>()?[layout.start_offset()..];
        let hidden = self.hidden;
        let row = |table: &[f32], index: usize, what: &str| match table.len() / hidden {
            rows if index < rows => Ok(index * hidden..(index + 1) * hidden),
            rows => bail!("{what} {index} is not among the {rows} that the model has"),
        };
        for (text, range) in texts.iter().zip(ranges) {
            let positions = self.positions(&text.ids);
            for segment in grid.segments(range.clone()) {
                for index in 0..segment.len {
                    let token = segment.before + index;
                    let kind = text.types.get(token).filter(|_| self.reads_types);
                    let kind = kind.map_or(0, |kind| *kind as usize);
                    let word = &words[row(words, text.ids[token] as usize, "token")?];
                    let position = row(&self.positions, positions[token], "position")?;
                    let position = &self.positions[position];
                    let kind = &self.types[row(&self.types, kind, "token type")?];
                    let panel = &mut x[segment.panel.of(hidden)];
                    let lane = panel.iter_mut().skip(segment.lane + index);
                    let places = lane.step_by(segment.panel.width);
                    for (((place, word), position), kind) in
                        places.zip(word).zip(position).zip(kind)
                    {
                        *place = word + position + kind;
                    }
                }
            }
        }
        Ok(())
    }

    /// The position of each token.
    fn positions(&self, ids: &[u32]) -> Vec<usize> {
        let Some(padding) = self.padding else {
            return (0..ids.len()).collect();
        };
        let mut last = padding;
        let position = |id: &u32| {
            if *id as usize == padding {
                return padding;
            }
            last += 1;
            last
        };
        ids.iter().map(position).collect()
    }
}

impl Layer {
    fn load(weights: &Weights, index: usize, config: &Config, machine: Machine) -> Result<Self> {
        let family = weights.family;
        let at = |name: &str| format!("{}.{index}.{name}", family.layer);
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let linear = |name: &str, outputs: usize, inputs: usize| {
            Linear::load(weights, &at(name), outputs, inputs, machine)
        };
        Ok(Self {
            qkv: Linear::load_qkv(weights, family.qkv.map(at), config, machine)?,
            heads: config.num_attention_heads,
            width: config.head_width(),
            attention_output: linear(family.attention_output, hidden, hidden)?,
            attention_norm: Norm::load(weights, &at(family.attention_norm), config)?,
            intermediate: linear(family.intermediate, wide, hidden)?,
            output: linear(family.output, hidden, wide)?,
            output_norm: Norm::load(weights, &at(family.output_norm), config)?,
        })
    }

    fn hidden(&self) -> usize {
        self.heads * self.width
    }

    fn wide(&self) -> usize {
        self.intermediate.weight.outputs()
    }

    /// Heads, or slices of the wide layer.
    fn divisible(&self, half: Half) -> usize {
        match half {
            Half::Attention => self.heads,
            Half::FeedForward => self.wide().div_ceil(WIDE_FEATURES),
        }
    }

    /// The bias of a half's output, and the norm that follows it.
    fn after(&self, half: Half) -> (&[f32], &Norm) {
        match half {
            Half::Attention => (&self.attention_output.bias, &self.attention_norm),
            Half::FeedForward => (&self.output.bias, &self.output_norm),
        }
    }

    /// What these heads add to the attention's output.
    fn attend(
        &self,
        x: &[f32],
        grid: Grid,
        texts: &[Range<usize>],
        heads: Range<usize>,
    ) -> Aligned {
        let (hidden, width) = (self.hidden(), self.width);
        let mut qkv = Aligned::zeros(grid.len(3 * heads.len() * width));
        Product {
            weights: &self.qkv.weight,
            outputs: 3 * heads.start * width..3 * heads.end * width,
            inputs: 0..hidden,
            grid,
            then: Then::Bias(&self.qkv.bias),
        }
        .run(x, &mut qkv);
        let mut context = Aligned::zeros(grid.len(heads.len() * width));
        Attention {
            texts,
            heads: heads.len(),
            width,
            grid,
        }
        .run(&qkv, &mut context);
        let mut partial = Aligned::zeros(grid.len(hidden));
        Product {
            weights: &self.attention_output.weight,
            outputs: 0..hidden,
            inputs: heads.start * width..heads.end * width,
            grid,
            then: Then::Add,
        }
        .run(&context, &mut partial);
        partial
    }

    /// What these slices of the wide layer add to the feed-forward network's output.
    fn feed_forward(&self, x: &[f32], grid: Grid, slices: Range<usize>) -> Aligned {
        let hidden = self.hidden();
        let mut partial = Aligned::zeros(grid.len(hidden));
        let mut wide = Aligned::zeros(grid.len(WIDE_FEATURES));
        for slice in slices {
            let start = slice * WIDE_FEATURES;
            let features = start..self.wide().min(start + WIDE_FEATURES);
            let wide = &mut wide[..grid.len(features.len())];
            Product {
                weights: &self.intermediate.weight,
                outputs: features.clone(),
                inputs: 0..hidden,
                grid,
                then: Then::Gelu(&self.intermediate.bias),
            }
            .run(x, wide);
            Product {
                weights: &self.output.weight,
                outputs: 0..hidden,
                inputs: features,
                grid,
                then: Then::Add,
            }
            .run(wide, &mut partial);
        }
        partial
    }
}

impl Linear {
    fn load(
        weights: &Weights,
        name: &str,
        outputs: usize,
        inputs: usize,
        machine: Machine,
    ) -> Result<Self> {
        let matrix = weights.matrix(&format!("{name}.weight"), outputs, inputs)?;
        Ok(Self {
            weight: Packed::new(&matrix, outputs, inputs, machine),
            bias: weights.vector(&format!("{name}.bias"), outputs)?,
        })
    }

    /// Queries, keys and values as one product, head by head. The queries carry the 1/√width of the
    /// scores.
    fn load_qkv(
        weights: &Weights,
        [queries, keys, values]: [String; 3],
        config: &Config,
        machine: Machine,
    ) -> Result<Self> {
        let (hidden, width) = (config.hidden_size, config.head_width());
        let part = |name: &str, scale: f32| -> Result<(Vec<f32>, Vec<f32>)> {
            let mut weight = weights.matrix(&format!("{name}.weight"), hidden, hidden)?;
            let mut bias = weights.vector(&format!("{name}.bias"), hidden)?;
            for value in weight.iter_mut().chain(&mut bias) {
                *value *= scale;
            }
            Ok((weight, bias))
        };
        let parts = [
            part(&queries, 1.0 / (width as f32).sqrt())?,
            part(&keys, 1.0)?,
            part(&values, 1.0)?,
        ];
        let mut matrix = Vec::with_capacity(3 * hidden * hidden);
        let mut bias = Vec::with_capacity(3 * hidden);
        for head in 0..config.num_attention_heads {
            let rows = head * width..(head + 1) * width;
            for (weight, biases) in &parts {
                matrix.extend_from_slice(&weight[rows.start * hidden..rows.end * hidden]);
                bias.extend_from_slice(&biases[rows.clone()]);
            }
        }
        Ok(Self {
            weight: Packed::new(&matrix, 3 * hidden, hidden, machine),
            bias,
        })
    }
}

impl Norm {
    fn load(weights: &Weights, name: &str, config: &Config) -> Result<Self> {
        Ok(Self {
            weight: weights.vector(&format!("{name}.weight"), config.hidden_size)?,
            shift: weights.vector(&format!("{name}.bias"), config.hidden_size)?,
            epsilon: config.layer_norm_eps,
        })
    }

    /// `x = LayerNorm(x + bias + Σ partial)`
    fn apply(&self, x: &mut [f32], bias: &[f32], partials: &[Aligned], grid: Grid) {
        Normalize {
            weight: &self.weight,
            shift: &self.shift,
            epsilon: self.epsilon,
            bias,
            partials,
            grid,
        }
        .run(x);
    }
}

/// `0..total` in at most `parts` ranges of like length, none empty.
fn shares(total: usize, parts: usize) -> Vec<Range<usize>> {
    let parts = parts.clamp(1, total.max(1));
    (0..parts)
        .map(|part| total * part / parts..total * (part + 1) / parts)
        .collect()
}
