//! `eval --tasks`, `tasks` and `tasks check`.

use std::process::ExitCode;

use serde_json::json;
use taper_pipeline::{ChatRequest, Console, Suite, TaskRequest};

use super::print;
use crate::args::{Args, EvalArgs, TasksArgs, TasksCommand};
use crate::render::tasks as render;

pub(crate) fn eval(args: &Args, given: &EvalArgs, console: &dyn Console) -> anyhow::Result<ExitCode> {
    let tasks = &given.tasks;
    let request = TaskRequest {
        model: given.model.parse()?,
        against: tasks.against.as_deref().map(str::parse).transpose()?,
        tasks: tasks.tasks.clone(),
        task_paths: tasks.task_path.clone(),
        data: tasks.data.clone(),
        shots: tasks.shots,
        limit: tasks.limit,
        seed: tasks.fewshot_seed,
        resamples: tasks.bootstrap,
        fresh: tasks.fresh,
        samples: tasks.log_samples,
        store: tasks.answers.clone(),
        chat: ChatRequest {
            apply: tasks.apply_chat_template.is_some(),
            name: tasks.apply_chat_template.clone().flatten(),
            system: tasks.system_instruction.clone(),
            multiturn: tasks.apply_chat_template.is_some() && tasks.fewshot_as_multiturn.unwrap_or(true),
        },
        threads: tasks.threads.map(usize::from),
    };
    let report = taper_pipeline::eval_tasks(&request, console)?;
    print(args, &report.results, || render::results(&report))
}

pub(crate) fn tasks(args: &Args, given: &TasksArgs) -> anyhow::Result<ExitCode> {
    if let Some(TasksCommand::Check { folders }) = &given.command {
        let mut own = Suite::default();
        for folder in folders {
            own.add_folder(folder).map_err(taper_pipeline::PipelineError::from)?;
        }
        let names: Vec<&str> = own.tasks().map(|task| task.task.as_str()).collect();
        return print(args, &json!({ "tasks": names }), || {
            let plural = if names.len() == 1 { "" } else { "s" };
            format!("{} task{plural}, nothing wrong", names.len())
        });
    }
    let suite = taper_pipeline::suite(&given.task_path)?;
    let all: Vec<_> = suite.tasks().collect();
    print(args, &json!({ "tasks": all, "groups": suite.groups().collect::<Vec<_>>() }), || render::list(&suite))
}
