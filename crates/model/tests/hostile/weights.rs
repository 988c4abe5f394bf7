//! The safetensors file: its header, its offsets, its bytes.

use serde_json::{Map, Value, json};
use taper_base::rng::{Rng, RngExt, stream};

use crate::{Folder, Trials, Want};

const FILE: &str = "model.safetensors";

/// A file taken apart.
#[derive(Clone)]
struct Parts {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl Parts {
    fn of(folder: &Folder) -> Self {
        let bytes = &folder.0[FILE];
        let start = header_end(bytes);
        Self { header: serde_json::from_slice(&bytes[8..start]).unwrap(), data: bytes[start..].to_vec() }
    }

    fn names(&self) -> Vec<String> {
        self.header.keys().filter(|name| *name != "__metadata__").cloned().collect()
    }

    fn pick(&self, rng: &mut impl Rng) -> String {
        let mut names = self.names();
        names.swap_remove(rng.random_range(0..names.len()))
    }

    fn offsets(&self, name: &str) -> [usize; 2] {
        [0, 1].map(|end| self.header[name]["data_offsets"][end].as_u64().unwrap() as usize)
    }

    fn file(&self) -> Vec<u8> {
        joined(&Value::Object(self.header.clone()).to_string(), &self.data)
    }
}

fn header_end(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize
}

fn joined(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn a_file_cut_short_is_refused() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let length = folder.0[FILE].len();
    for seed in 0..30 {
        let kept = stream(1, "truncate", seed, 0).random_range(0..length);
        let shortened = folder.with(FILE, &folder.0[FILE][..kept]);
        trials.run(&format!("{kept} of {length} bytes"), &shortened, Want::Refusal(&[FILE]));
    }
    trials.run("a byte too many", &folder.with(FILE, [&folder.0[FILE][..], &[0]].concat()), Want::Refusal(&[FILE]));
    trials.finish("truncated", 31);
}

#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let (start, length) = (header_end(&folder.0[FILE]), folder.0[FILE].len());
    for seed in 0..90 {
        let mut rng = stream(2, "flip", seed, 0);
        let mut bytes = folder.0[FILE].clone();
        let at = if seed < 60 { rng.random_range(0..start) } else { rng.random_range(start..length) };
        bytes[at] ^= 1 << rng.random_range(0..8);
        trials.run(&format!("bit flipped in byte {at}"), &folder.with(FILE, bytes), Want::RefusalOrModel(&[FILE]));
    }
    trials.finish("flipped bits", 90);
}

#[test]
fn a_false_header_length_is_refused() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let mut rng = stream(3, "length", 0, 0);
    let right = header_end(&folder.0[FILE]) as u64 - 8;
    let mut lengths =
        vec![0, 1, right - 1, right + 1, 100_000_000, 100_000_001, 1 << 32, 1 << 63, u64::MAX, u64::MAX - 7];
    lengths.extend((0..10).map(|_| rng.random::<u64>() >> rng.random_range(0..48)));
    for length in lengths {
        let mut bytes = folder.0[FILE].clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        trials.run(&format!("header length {length}"), &folder.with(FILE, bytes), Want::Refusal(&[FILE]));
    }
    trials.finish("header lengths", 20);
}

#[test]
fn a_tensor_of_false_type_or_shape_is_named() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let parts = Parts::of(&folder);
    let kinds =
        [json!("F33"), json!("f32"), json!(""), json!("F64"), json!("BOOL"), json!("I32"), json!("F16"), json!(7)];
    for (seed, kind) in kinds.iter().cycle().take(16).enumerate() {
        let mut changed = parts.clone();
        let name = parts.pick(&mut stream(4, "type", seed as u64, 0));
        changed.header[&name]["dtype"] = kind.clone();
        let about = format!("{name} of type {kind}");
        trials.run(&about, &folder.with(FILE, changed.file()), Want::Refusal(&[FILE, &format!("`{name}`")]));
    }
    for seed in 0..32_u64 {
        let mut changed = parts.clone();
        let name = parts.pick(&mut stream(5, "shape", seed, 0));
        let shape = changed.header[&name]["shape"].as_array_mut().unwrap();
        match seed % 8 {
            0 => shape.push(json!(1)),
            1 => shape.insert(0, json!(1)),
            2 => shape.push(json!(0)),
            3 => shape[0] = json!(shape[0].as_u64().unwrap() + 1),
            4 => shape.clear(),
            5 => *shape = vec![json!(1_u64 << 40); 3],
            6 => shape[0] = json!(-1),
            _ => shape[0] = json!(u64::MAX),
        }
        let about = format!("{name} of shape {shape:?}");
        trials.run(&about, &folder.with(FILE, changed.file()), Want::Refusal(&[FILE, &format!("`{name}`")]));
    }
    trials.finish("types and shapes", 48);
}

#[test]
fn false_offsets_are_refused() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let parts = Parts::of(&folder);
    for seed in 0..15 {
        let mut rng = stream(6, "swap", seed, 0);
        let (a, mut b) = (parts.pick(&mut rng), parts.pick(&mut rng));
        let size = |name: &str| parts.offsets(name)[1] - parts.offsets(name)[0];
        while size(&a) == size(&b) {
            b = parts.pick(&mut rng);
        }
        let mut changed = parts.clone();
        changed.header[&a]["data_offsets"] = json!(parts.offsets(&b));
        changed.header[&b]["data_offsets"] = json!(parts.offsets(&a));
        let first = if a < b { &a } else { &b };
        let about = format!("offsets of {a} and {b} swapped");
        trials.run(&about, &folder.with(FILE, changed.file()), Want::Refusal(&[FILE, &format!("`{first}`")]));
    }
    for seed in 0..20_u64 {
        let mut changed = parts.clone();
        let name = parts.pick(&mut stream(7, "offsets", seed, 0));
        let [from, to] = parts.offsets(&name);
        let offsets = match seed % 5 {
            0 => json!([from + 4, to + 4]), // on its neighbour, a hole behind
            1 => json!([to, from]),
            2 => json!([u64::MAX - 3, u64::MAX]),
            3 => json!([-4, 0]),
            _ => json!([from, to, to]),
        };
        let about = format!("{name} at {offsets}");
        changed.header[&name]["data_offsets"] = offsets;
        trials.run(&about, &folder.with(FILE, changed.file()), Want::Refusal(&[FILE, "tensor `"]));
    }
    trials.finish("offsets", 35);
}

#[test]
fn names_that_are_there_twice_or_not_at_all_are_named() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let parts = Parts::of(&folder);
    for seed in 0..8 {
        let mut rng = stream(8, "names", seed, 0);
        let (a, mut b) = (parts.pick(&mut rng), parts.pick(&mut rng));
        while a == b {
            b = parts.pick(&mut rng);
        }
        let header = Value::Object(parts.header.clone()).to_string();
        let twice = joined(&header.replace(&format!("\"{b}\""), &format!("\"{a}\"")), &parts.data);
        let wanted = [FILE, &format!("`{a}` is there twice")];
        trials.run(&format!("{b} called {a}"), &folder.with(FILE, twice), Want::Refusal(&wanted));

        let entry = format!("\"{a}\":{},", parts.header[&a]);
        let twice = joined(&header.replacen('{', &format!("{{{entry}"), 1), &parts.data);
        trials.run(&format!("{a} repeated"), &folder.with(FILE, twice), Want::Refusal(&wanted));

        let mut renamed = parts.clone();
        let entry = renamed.header.remove(&a).unwrap();
        renamed.header.insert(format!("{a}s"), entry);
        trials.run(
            &format!("{a} renamed"),
            &folder.with(FILE, renamed.file()),
            Want::Refusal(&[FILE, &format!("`{a}`")]),
        );

        let mut more = parts.clone();
        let (end, name) = (more.data.len(), format!("model.layers.{seed}.extra"));
        more.header.insert(name.clone(), json!({"dtype": "F32", "shape": [2], "data_offsets": [end, end + 8]}));
        more.data.extend([0; 8]);
        trials.run(&name, &folder.with(FILE, more.file()), Want::Refusal(&[FILE, &format!("`{name}`")]));
    }
    trials.finish("names", 32);
}

#[test]
fn a_weight_that_is_no_finite_number_is_named() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let parts = Parts::of(&folder);
    for (seed, bad) in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY].iter().cycle().take(16).enumerate() {
        let mut rng = stream(9, "nan", seed as u64, 0);
        let mut changed = parts.clone();
        let name = parts.pick(&mut rng);
        let [from, to] = parts.offsets(&name);
        let index = rng.random_range(0..(to - from) / 4);
        changed.data[from + 4 * index..][..4].copy_from_slice(&bad.to_le_bytes());
        let wanted = [FILE, &format!("`{name}` holds"), &format!("at index {index}")];
        trials.run(&format!("{bad} in {name}"), &folder.with(FILE, changed.file()), Want::Refusal(&wanted));
    }
    trials.finish("weights that are no number", 16);
}

#[test]
fn headers_that_are_no_header_are_refused() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let deep =
        ["[".repeat(200_000), r#"{"a":"#.repeat(100_000), format!(r#"{{"__metadata__":{}"#, "[".repeat(100_000))];
    let odd = ["", "[]", "null", "3", "{", "{}", r#"{"__metadata__":{"a":1}}"#, r#"{"a":{}}"#, r#"{"a":null}"#];
    for header in deep.iter().map(String::as_str).chain(odd) {
        let about = format!("header {}", header.chars().take(30).collect::<String>());
        trials.run(&about, &folder.with(FILE, joined(header, &[])), Want::Refusal(&[FILE]));
    }
    let mut bytes = folder.0[FILE].clone();
    bytes[20] = 0xff;
    trials.run("header is not UTF-8", &folder.with(FILE, bytes), Want::Refusal(&[FILE]));
    for pickle in [b"PK\x03\x04\x14\0\0\0\0\0archive/data.pkl".as_slice(), b"\x80\x02}q\0(X\x05\0\0\0helloq\x01K\x01u."]
    {
        trials.run("a pickle", &folder.with(FILE, pickle), Want::Refusal(&[FILE, "is a pickle"]));
    }
    trials.finish("headers", 15);
}
