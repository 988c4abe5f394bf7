//! Taper's own tasks, as their files in `evals/` say them.

/// Folder and text of each, sorted.
pub(super) const ALL: &[(&str, &str)] = &[
    ("arc_challenge", include_str!("../../../../evals/arc_challenge/task.yaml")),
    ("arc_easy", include_str!("../../../../evals/arc_easy/task.yaml")),
    ("boolq", include_str!("../../../../evals/boolq/task.yaml")),
    ("commonsense_qa", include_str!("../../../../evals/commonsense_qa/task.yaml")),
    ("gsm8k", include_str!("../../../../evals/gsm8k/task.yaml")),
    ("hellaswag", include_str!("../../../../evals/hellaswag/task.yaml")),
    ("lambada_openai", include_str!("../../../../evals/lambada_openai/task.yaml")),
    ("logiqa", include_str!("../../../../evals/logiqa/task.yaml")),
    ("mmlu", include_str!("../../../../evals/mmlu/task.yaml")),
    ("openbookqa", include_str!("../../../../evals/openbookqa/task.yaml")),
    ("piqa", include_str!("../../../../evals/piqa/task.yaml")),
    ("sciq", include_str!("../../../../evals/sciq/task.yaml")),
    ("standard", include_str!("../../../../evals/standard/task.yaml")),
    ("wikitext", include_str!("../../../../evals/wikitext/task.yaml")),
    ("winogrande", include_str!("../../../../evals/winogrande/task.yaml")),
];
