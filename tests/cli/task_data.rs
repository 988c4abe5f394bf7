//! Documents of tasks in every form and state: read alike, or refused by task, document and field.

use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::Value;

use crate::support::{Place, text};
use crate::tasks::{self, TASK};

const ARGS: [&str; 10] =
    ["eval", "model", "--tasks", "endings", "--task-path", "tasks", "--data", "data", "--json", "--log-samples"];

/// Results and samples.
fn answered(place: &Place) -> Value {
    let output = place.done(&ARGS);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    serde_json::json!([report["results"], report["samples"]])
}

#[track_caller]
fn refused(place: &Place) -> String {
    let output = place.output(&ARGS);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""));
    text(&output.stderr).lines().filter(|line| !line.starts_with("endings@")).map(|line| format!("{line}\n")).collect()
}

fn as_parquet(documents: &[Value]) -> Vec<u8> {
    let schema = "message document {
        required binary start (UTF8);
        required group endings (LIST) { repeated group list { required binary element (UTF8); } }
        required int64 right;
    }";
    let bytes = |text: &Value| ByteArray::from(text.as_str().unwrap());
    let starts: Vec<ByteArray> = documents.iter().map(|document| bytes(&document["start"])).collect();
    let endings: Vec<ByteArray> =
        documents.iter().flat_map(|document| document["endings"].as_array().unwrap()).map(bytes).collect();
    let repeated: Vec<i16> = (0..endings.len()).map(|index| i16::from(index % 2 == 1)).collect(); // two of each document
    let right: Vec<i64> = documents.iter().map(|document| document["right"].as_i64().unwrap()).collect();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::default())).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&starts, None, None).unwrap();
    column.close().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&endings, Some(&vec![1; endings.len()]), Some(&repeated)).unwrap();
    column.close().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&right, None, None).unwrap();
    column.close().unwrap();
    rows.close().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn parquet_json_and_jsonl_are_read_alike() {
    let place = tasks::place(9);
    let wanted = answered(&place);
    let file = |ending: &str| place.path(&format!("data/endings/test.{ending}"));
    let lines = std::fs::read_to_string(file("jsonl")).unwrap();
    let documents: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    std::fs::remove_file(file("jsonl")).unwrap();
    place.write("data/endings/test.json", &serde_json::to_vec(&documents).unwrap());
    assert_eq!(answered(&place), wanted);
    std::fs::remove_file(file("json")).unwrap();
    let bytes = as_parquet(&documents);
    place.write("data/endings/test.parquet", &bytes);
    assert_eq!(answered(&place), wanted);

    place.write("data/endings/test.parquet", &bytes[..bytes.len() / 2]);
    let error = refused(&place);
    assert!(error.starts_with("error: task endings, split test\n  cause: "), "{error}");
    assert!(error.contains("data/endings/test.parquet"), "{error}");
    std::fs::remove_file(file("parquet")).unwrap();
    let error = refused(&place);
    assert!(error.contains("data/endings/test: cannot be read"), "{error}");
    assert!(error.contains("no .jsonl, .json or .parquet file of this name"), "{error}");
}

#[test]
fn a_document_that_cannot_be_asked_is_named() {
    let place = tasks::place(1);
    let long = " the cat sat".repeat(600);
    for (line, want) in [
        (
            serde_json::json!({"start": "a", "endings": ["b", long], "right": 0}).to_string(),
            "error: task endings, document 1 of test, doc_to_choice: a continuation of ",
        ),
        (
            r#"{"start": "a", "endings": ["b", ""], "right": 0}"#.to_owned(),
            "document 1 of test, doc_to_choice: a continuation without a token",
        ),
        (
            r#"{"start": "a", "endings": [], "right": 0}"#.to_owned(),
            "document 1 of test, doc_to_choice: [], wanted a list of texts",
        ),
        (r#"{"start": "a", "right": 0}"#.to_owned(), "document 1 of test, doc_to_choice: "),
        (r#"{"start": "a", "endings": ["b", "c"]}"#.to_owned(), "document 1 of test, doc_to_target: "),
        (r#"{"start": null, "endings": ["b", "c"], "right": null}"#.to_owned(), "document 1 of test, doc_to_target: "),
        ("[1]".to_owned(), "test.jsonl:2: wanted an object"),
    ] {
        let good = r#"{"start": "a", "endings": [" b", " c"], "right": 0}"#;
        place.write("data/endings/test.jsonl", format!("{good}\n{line}\n").as_bytes());
        let error = refused(&place);
        assert!(error.contains("task endings") && error.contains(want), "{line}: {error}");
    }
    place.write("data/endings/test.jsonl", b"{\"start\": \"a\"}\n{\"start\": \"\xff\"}\n");
    let error = refused(&place);
    assert!(error.starts_with("error: task endings, split test\n"), "{error}");
    assert!(error.contains("test.jsonl:2: invalid UTF-8"), "{error}");
}

/// As `HFLM._loglikelihood_tokens`: the last tokens that the model takes, and one more to predict the first from.
#[test]
fn a_context_longer_than_the_model_loses_its_beginning() {
    let place = tasks::place(1);
    let document = |start: &str| {
        let line = serde_json::json!({"start": start, "endings": [" a dog", " the end"], "right": 0});
        place.write("data/endings/test.jsonl", format!("{line}\n").as_bytes());
        answered(&place)[1]["endings"][0]["resps"].clone()
    };
    let end = "Once upon a time there was a big red ball. ".repeat(200);
    let whole = document(&end);
    assert_eq!(document(&format!("Something else entirely. {end}")), whole);
    assert_ne!(document("Once upon a time"), whole);
}

#[test]
fn what_a_generation_or_a_text_cannot_be_is_named() {
    let place = tasks::place(2);
    let generates = TASK
        .replace("multiple_choice", "generate_until")
        .replace("doc_to_choice: \"{{endings}}\"\n", "generation_kwargs: { until: [\".\"], max_gen_toks: 100000 }\n")
        .replace("{ metric: acc }, { metric: acc_norm }", "{ metric: exact_match }");
    place.write("tasks/task.yaml", generates.as_bytes());
    let error = refused(&place);
    assert!(
        error.contains("task endings, document 0 of test, doc_to_text: 100000 tokens to generate, and the model takes"),
        "{error}"
    );
    let rolling = TASK
        .replace("multiple_choice", "loglikelihood_rolling")
        .replace("doc_to_choice: \"{{endings}}\"\n", "")
        .replace("doc_to_target: right", "doc_to_target: start")
        .replace("{ metric: acc }, { metric: acc_norm }", "{ metric: word_perplexity }");
    place.write("tasks/task.yaml", rolling.as_bytes());
    place.write("data/endings/test.jsonl", b"{\"start\": \"a\"}\n{\"start\": \"\"}\n");
    let output = place.output(&ARGS);
    let error = text(&output.stderr);
    assert!(error.contains("task endings, document 1 of test, doc_to_target: a text without tokens"), "{error}");
}

/// Every weight of the model in `place` becomes `value`, in f32.
fn fill(place: &Place, value: f32) {
    let name = "model/model.safetensors";
    let bytes = std::fs::read(place.path(name)).unwrap();
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let length = u64::from_le_bytes(*length) as usize;
    let mut header: Value = serde_json::from_slice(&rest[..length]).unwrap();
    let tensors = header.as_object_mut().unwrap().iter_mut().filter(|(name, _)| *name != "__metadata__");
    for (_, tensor) in tensors {
        assert_eq!(tensor["dtype"], "F16");
        tensor["dtype"] = "F32".into();
        let offsets = [0, 1].map(|end| 2 * tensor["data_offsets"][end].as_u64().unwrap());
        tensor["data_offsets"] = offsets.as_slice().into();
    }
    let header = header.to_string();
    let values = value.to_le_bytes().repeat(rest[length..].len() / 2);
    place.write(name, &[&(header.len() as u64).to_le_bytes(), header.as_bytes(), &values].concat());
}

#[test]
fn a_model_that_overflows_gets_no_score() {
    let place = tasks::filled(Place::with_own_model(), 2);
    fill(&place, 1e18);
    let want = "task endings, document 0: the model's answer is infinite or NaN";
    let error = refused(&place);
    assert!(error.contains(want), "{error}");
    let generates = TASK
        .replace("multiple_choice", "generate_until")
        .replace("doc_to_choice: \"{{endings}}\"\n", "generation_kwargs: { until: [\".\"], max_gen_toks: 4 }\n")
        .replace("{ metric: acc }, { metric: acc_norm }", "{ metric: exact_match }");
    place.write("tasks/task.yaml", generates.as_bytes());
    let error = refused(&place);
    assert!(error.contains(want), "{error}");
}
