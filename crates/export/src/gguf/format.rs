//! The file itself, version 3: a header, keys with values, the tensors' names, shapes and places, then their data.
//!
//! Little-endian. Shapes are written from the innermost dimension on, so `[rows, columns]` is `columns, rows`. Data begins at a
//! multiple of 32 bytes, and so does each tensor. Source: llama.cpp's docs/gguf.md.

use std::io::{self, Write};

/// What offsets are multiples of.
pub(crate) const ALIGNMENT: u64 = 32;
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
pub(crate) const VERSION: u32 = 3;

/// A key's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    U32(u32),
    /// A number.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// Whole numbers.
    U32s(Vec<u32>),
    /// Whole numbers with a sign.
    I32s(Vec<i32>),
    /// Numbers.
    F32s(Vec<f32>),
    /// Texts.
    Texts(Vec<String>),
}

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits, the upper half of f32.
    Bf16,
    /// Blocks of 32: a scale and 4 bits each.
    Q4_0,
    /// Blocks of 32: a scale and 5 bits each.
    Q5_0,
    /// Blocks of 32: a scale, a least value and 5 bits each.
    Q5_1,
    /// Blocks of 32: a scale and 8 bits each.
    Q8_0,
    /// Blocks of 256 in eight parts with scales and least values of 6 bits, 4 bits each.
    Q4K,
    /// The same with 5 bits each.
    Q5K,
    /// Blocks of 256 in sixteen parts with scales of 8 bits, 6 bits each.
    Q6K,
}

/// Each kind: its number in files, its name in llama.cpp, values and bytes of a block.
const KINDS: [(Kind, u32, &str, usize, usize); 10] = [
    (Kind::F32, 0, "F32", 1, 4),
    (Kind::F16, 1, "F16", 1, 2),
    (Kind::Q4_0, 2, "Q4_0", 32, 18),
    (Kind::Q5_0, 6, "Q5_0", 32, 22),
    (Kind::Q5_1, 7, "Q5_1", 32, 24),
    (Kind::Q8_0, 8, "Q8_0", 32, 34),
    (Kind::Q4K, 12, "Q4_K", 256, 144),
    (Kind::Q5K, 13, "Q5_K", 256, 176),
    (Kind::Q6K, 14, "Q6_K", 256, 210),
    (Kind::Bf16, 30, "BF16", 1, 2),
];

impl Kind {
    fn row(self) -> (Self, u32, &'static str, usize, usize) {
        KINDS.into_iter().find(|(kind, ..)| *kind == self).unwrap_or(KINDS[0]) // all are listed
    }

    /// Its number in files.
    pub fn number(self) -> u32 {
        self.row().1
    }

    /// The kind of this number.
    pub fn of_number(number: u32) -> Option<Self> {
        KINDS.into_iter().find(|(_, own, ..)| *own == number).map(|(kind, ..)| kind)
    }

    /// Its name in llama.cpp.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Values of a block: a row is a multiple of it.
    pub fn block(self) -> usize {
        self.row().3
    }

    /// Bytes of `values` values.
    pub fn bytes(self, values: usize) -> usize {
        values / self.block() * self.row().4
    }
}

/// A tensor's entry in the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub kind: Kind,
}

impl Info {
    /// Bytes of its data.
    pub fn bytes(&self) -> usize {
        self.kind.bytes(self.shape.iter().product())
    }
}

/// Writes all before the data, and what aligns it.
pub(crate) fn write_header(out: &mut dyn Write, keys: &[(String, Value)], tensors: &[Info]) -> io::Result<()> {
    let mut head = Vec::new();
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut head, key);
        write_value(&mut head, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut head, &tensor.name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|size| head.extend((*size as u64).to_le_bytes()));
        head.extend(tensor.kind.number().to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += aligned(tensor.bytes());
    }
    head.resize(aligned(head.len()), 0);
    out.write_all(&head)
}

/// `bytes`, and what is missing to a multiple of the alignment.
pub(crate) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT as usize)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    const ARRAY: u32 = 9;
    let number = |kind: u32| kind.to_le_bytes();
    let list = |kind: u32, count: usize, out: &mut Vec<u8>| {
        out.extend(number(ARRAY));
        out.extend(number(kind));
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Value::U32(x) => out.extend([number(4), x.to_le_bytes()].concat()),
        Value::F32(x) => out.extend([number(6), x.to_le_bytes()].concat()),
        Value::Bool(x) => {
            out.extend(number(7));
            out.push(u8::from(*x));
        }
        Value::Text(x) => {
            out.extend(number(8));
            text(out, x);
        }
        Value::U32s(all) => {
            list(4, all.len(), out);
            all.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Value::I32s(all) => {
            list(5, all.len(), out);
            all.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Value::F32s(all) => {
            list(6, all.len(), out);
            all.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Value::Texts(all) => {
            list(8, all.len(), out);
            all.iter().for_each(|x| text(out, x));
        }
    }
}
