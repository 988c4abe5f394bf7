//! All tasks there are: taper's own, and those of the user's folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::check::check_task;
use super::task::{Group, Metric, Task};
use super::{HarnessError, builtin};

/// Tasks and groups by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Suite {
    tasks: BTreeMap<String, Task>,
    groups: BTreeMap<String, Group>,
}

/// What was asked for: the tasks, and the groups they were named by.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection<'a> {
    /// Each task once, in the order asked for.
    pub tasks: Vec<&'a Task>,
    /// Groups, those inside others first.
    pub groups: Vec<&'a Group>,
}

impl Suite {
    /// Taper's own tasks.
    ///
    /// # Errors
    /// None, if the tests of this crate pass.
    pub fn builtin() -> Result<Self, HarnessError> {
        let mut suite = Self::default();
        for (name, text) in builtin::ALL {
            suite.add(text, &format!("evals/{name}/task.yaml"))?;
        }
        Ok(suite)
    }

    /// Adds the tasks of `folder`: of its `task.yaml`, or of those of its folders. A name that is known already is replaced.
    ///
    /// # Errors
    /// [`HarnessError::TaskFile`] with file and line, or if nothing is there to read.
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), HarnessError> {
        let read =
            |path: &Path| fs::read_to_string(path).map_err(|cause| HarnessError::Read { path: path.into(), cause });
        let own = folder.join("task.yaml");
        if own.is_file() {
            return self.add(&read(&own)?, &own.display().to_string());
        }
        let entries = fs::read_dir(folder).map_err(|cause| HarnessError::Read { path: folder.into(), cause })?;
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|cause| HarnessError::Read { path: folder.into(), cause })?;
            files.push(entry.path().join("task.yaml"));
        }
        files.retain(|file| file.is_file());
        files.sort();
        if files.is_empty() {
            let reason = "no task.yaml in it or in its folders".to_owned();
            return Err(HarnessError::TaskFile { at: folder.display().to_string(), reason });
        }
        files.iter().try_for_each(|file| self.add(&read(file)?, &file.display().to_string()))
    }

    /// Adds what the text of the file `name` says.
    ///
    /// # Errors
    /// [`HarnessError::TaskFile`].
    pub fn add(&mut self, text: &str, name: &str) -> Result<(), HarnessError> {
        if text.lines().any(|line| line.starts_with("group:")) {
            let group: Group = parse(text, name)?;
            self.groups.insert(group.group.clone(), group);
            return Ok(());
        }
        let task: Task = parse(text, name)?;
        check_task(&task).map_err(|(key, reason)| {
            let line = text.lines().position(|line| line.starts_with(&format!("{key}:"))).map_or(1, |line| line + 1);
            HarnessError::TaskFile { at: format!("{name}:{line}"), reason: format!("{key}: {reason}") }
        })?;
        self.expand(task);
        Ok(())
    }

    fn expand(&mut self, mut task: Task) {
        let Some(variants) = task.variants.take() else {
            self.tasks.insert(task.task.clone(), task);
            return;
        };
        let group = |name: &str, tasks: Vec<String>| Group {
            group: name.to_owned(),
            summary: task.summary.clone(),
            task: tasks,
            aggregate_metric_list: task.metric_list.iter().map(|metric| metric.metric).collect::<Vec<Metric>>(),
            metadata: task.metadata.clone(),
        };
        for (name, words) in &variants.groups {
            let names = words.iter().map(|word| format!("{}_{word}", task.task)).collect();
            self.groups.insert(name.clone(), group(name, names));
        }
        self.groups.insert(task.task.clone(), group(&task.task, variants.groups.keys().cloned().collect()));
        for word in variants.groups.values().flatten() {
            let mut one = task.clone();
            one.task_alias = Some(word.clone());
            one.dataset_name = Some(word.clone());
            one.dataset_folder = Some(task.dataset_folder.clone().unwrap_or_else(|| task.task.clone()));
            one.dataset_where.insert(variants.field.clone(), word.as_str().into());
            one.dataset_files.values_mut().flatten().for_each(|file| *file = file.replace("{variant}", word));
            one.task = format!("{}_{word}", task.task);
            self.tasks.insert(one.task.clone(), one);
        }
    }

    /// All tasks, sorted by name.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }

    /// All groups, sorted by name.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// The tasks that `names` mean.
    ///
    /// # Errors
    /// [`HarnessError::Unknown`]; [`HarnessError::TaskFile`] if a group is inside itself.
    pub fn select<'a>(&'a self, names: &[String]) -> Result<Selection<'a>, HarnessError> {
        let mut selection = Selection { tasks: Vec::new(), groups: Vec::new() };
        names.iter().try_for_each(|name| self.pick(name, &mut Vec::new(), &mut selection))?;
        Ok(selection)
    }

    fn pick<'a>(&'a self, name: &str, inside: &mut Vec<String>, into: &mut Selection<'a>) -> Result<(), HarnessError> {
        if let Some(task) = self.tasks.get(name) {
            if !into.tasks.iter().any(|other| other.task == task.task) {
                into.tasks.push(task);
            }
            return Ok(());
        }
        let Some(group) = self.groups.get(name) else {
            let known = self.tasks.keys().chain(self.groups.keys()).map(String::as_str);
            let hint = taper_base::registry::did_you_mean(name, known);
            return Err(HarnessError::Unknown { name: name.to_owned(), hint });
        };
        if inside.iter().any(|outer| outer == name) {
            let reason = format!("the group is inside itself: {}", inside.join(" > "));
            return Err(HarnessError::TaskFile { at: name.to_owned(), reason });
        }
        inside.push(name.to_owned());
        group.task.iter().try_for_each(|name| self.pick(name, inside, into))?;
        inside.pop();
        if !into.groups.iter().any(|other| other.group == group.group) {
            into.groups.push(group);
        }
        Ok(())
    }

    /// The tasks of `group`, also those of groups inside it.
    pub fn leaves(&self, group: &Group) -> Vec<&str> {
        let mut names = Vec::new();
        for name in &group.task {
            match (self.tasks.get(name), self.groups.get(name)) {
                (Some(task), _) => names.push(task.task.as_str()),
                (None, Some(inner)) if inner.group != group.group => names.extend(self.leaves(inner)),
                _ => {}
            }
        }
        names
    }
}

fn parse<T: DeserializeOwned + for<'de> Deserialize<'de>>(text: &str, name: &str) -> Result<T, HarnessError> {
    serde_saphyr::from_str(text).map_err(|cause| {
        let line = cause.location().map_or(1, |location| location.line());
        HarnessError::TaskFile { at: format!("{name}:{line}"), reason: cause.to_string() }
    })
}
