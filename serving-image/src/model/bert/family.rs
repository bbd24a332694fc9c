//! BERT and its relatives: one encoder, whose files name its parts differently.

use candle_core::{Result, Tensor, bail};

/// What sets a family apart. Names are those of Hugging Face, without `.weight` and `.bias`.
#[derive(Debug)]
pub(super) struct Family {
    /// What comes before the encoder's names, unless the file holds the encoder alone.
    pub root: &'static str,
    /// Whether positions are counted from behind the padding token's id, and not from 0.
    pub positions_follow_padding: bool,
    /// What the encoder knows of two texts.
    pub token_types: TokenTypes,
    /// A layer, before its number.
    pub layer: &'static str,
    /// Queries, keys and values.
    pub qkv: [&'static str; 3],
    /// From all heads back to the hidden features.
    pub attention_output: &'static str,
    /// After attention.
    pub attention_norm: &'static str,
    /// To the wide features.
    pub intermediate: &'static str,
    /// And back.
    pub output: &'static str,
    /// After the feed-forward network.
    pub output_norm: &'static str,
    /// The classifier's first layer, of the first token's vector.
    pub pooler: &'static str,
    /// What follows it.
    pub activation: fn(&Tensor) -> Result<Tensor>,
    /// The classifier's last layer.
    pub classifier: &'static str,
}

/// Which text of a pair a token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenTypes {
    /// As the tokeniser says.
    Tokenizer,
    /// Every token is of type 0, whatever the tokeniser says.
    Zero,
    /// The encoder has none.
    Absent,
}

/// Devlin et al. 2019.
const BERT: Family = Family {
    root: "bert.",
    positions_follow_padding: false,
    token_types: TokenTypes::Tokenizer,
    layer: "encoder.layer",
    qkv: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ],
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
    pooler: "pooler.dense",
    activation: Tensor::tanh,
    classifier: "classifier",
};

/// Sanh et al. 2019.
const DISTILBERT: Family = Family {
    root: "distilbert.",
    token_types: TokenTypes::Absent,
    layer: "transformer.layer",
    qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    intermediate: "ffn.lin1",
    output: "ffn.lin2",
    output_norm: "output_layer_norm",
    pooler: "pre_classifier",
    activation: Tensor::relu,
    ..BERT
};

/// Liu et al. 2019. XLM-RoBERTa (Conneau et al. 2020) differs in its tokeniser alone.
const ROBERTA: Family = Family {
    root: "roberta.",
    positions_follow_padding: true,
    token_types: TokenTypes::Zero,
    pooler: "classifier.dense",
    classifier: "classifier.out_proj",
    ..BERT
};

/// By `model_type` of `config.json`.
const FAMILIES: [(&str, &Family); 4] = [
    ("bert", &BERT),
    ("distilbert", &DISTILBERT),
    ("roberta", &ROBERTA),
    ("xlm-roberta", &ROBERTA),
];

impl Family {
    /// The family of that `model_type`; BERT where a file tells none. An error where this build has
    /// no such family; it names those that there are.
    pub fn of(model_type: Option<&str>) -> Result<&'static Self> {
        let Some(model_type) = model_type else {
            return Ok(&BERT);
        };
        let mut families = FAMILIES.iter();
        let Some((_, family)) = families.find(|(name, _)| *name == model_type) else {
            let known = FAMILIES.map(|(name, _)| name).join(", ");
            bail!("model_type is {model_type}, but only {known} are supported");
        };
        Ok(family)
    }
}
