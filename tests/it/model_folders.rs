//! Odd model folders through the program: each is read the same way in every process, or refused with the cure.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Output;

use glm_batch::StopFlag;
use glm_batch::internals::checkpoint::{JobRecord, OutputFolder};
use glm_batch::internals::job::Rules;
use glm_batch::internals::model::{Fingerprinted, weights_fingerprint};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Job, both, demo_model, demo_questions, some_questions, stderr};

const WORDS: &str = "glm.word_embeddings.weight";
const NORM: &str = "glm.transformer.final_layernorm.weight";
const COLUMNS: &str = "columns = { prompt = \"question\", prefix = \"prefix\" }";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 32203912\n";

/// How often each folder is read in a process of its own.
const PROCESSES: usize = 4;

#[derive(Clone, PartialEq)]
struct Tensor {
    kind: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

type Tensors = BTreeMap<String, Tensor>;

/// The tensors of the demonstration model.
fn tensors() -> Tensors {
    let content = std::fs::read(demo_model().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&content).unwrap();
    let all = file.tensors().into_iter().map(|(name, view)| {
        let tensor = Tensor {
            kind: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        (name, tensor)
    });
    all.collect()
}

fn zeros(tensor: &Tensor) -> Tensor {
    Tensor {
        bytes: vec![0; tensor.bytes.len()],
        ..tensor.clone()
    }
}

fn write(path: &Path, tensors: &Tensors) {
    let (mut header, mut body) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors {
        let start = body.len();
        body.extend_from_slice(&tensor.bytes);
        let entry = json!({"dtype": tensor.kind.to_string(), "shape": tensor.shape, "data_offsets": [start, body.len()]});
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length[..], header.as_bytes(), &body].concat()).unwrap();
}

/// A pickle of tensors as `torch.save` writes it, and the storages beside it.
fn write_pickle(path: &Path, tensors: &[(&str, &Tensor)]) {
    let text = |text: &str| {
        [
            &b"X"[..],
            &(text.len() as u32).to_le_bytes(),
            text.as_bytes(),
        ]
        .concat()
    };
    let number = |number: usize| [&b"J"[..], &(number as u32).to_le_bytes()].concat();
    let mut pickle = b"\x80\x02}".to_vec();
    for (key, (name, tensor)) in tensors.iter().enumerate() {
        let class = match tensor.kind {
            Dtype::F16 => "HalfStorage",
            _ => "DoubleStorage",
        };
        let count = tensor.shape.iter().product();
        let mut strides = vec![1; tensor.shape.len()];
        for at in (1..strides.len()).rev() {
            strides[at - 1] = strides[at] * tensor.shape[at];
        }
        let tuple = |numbers: &[usize]| {
            let items: Vec<u8> = numbers.iter().flat_map(|&value| number(value)).collect();
            [&b"("[..], &items, b"t"].concat()
        };
        pickle.extend(text(name));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend(text("storage"));
        pickle.extend(format!("ctorch\n{class}\n").bytes());
        pickle.extend(text(&key.to_string()));
        pickle.extend(text("cpu"));
        pickle.extend(number(count));
        pickle.extend(b"tQK\x00");
        pickle.extend(tuple(&tensor.shape));
        pickle.extend(tuple(&strides));
        pickle.extend(b"\x89NtRs");
    }
    pickle.push(b'.');
    let storages = tensors.iter().enumerate();
    let storages =
        storages.map(|(key, (_, tensor))| (format!("archive/data/{key}"), tensor.bytes.clone()));
    let files: Vec<_> = [("archive/data.pkl".to_owned(), pickle)]
        .into_iter()
        .chain(storages)
        .collect();
    write_archive(path, &files);
}

fn write_archive(path: &Path, files: &[(String, Vec<u8>)]) {
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, content) in files {
        archive
            .start_file(name, zip::write::SimpleFileOptions::default())
            .unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap();
}

/// A model folder that a test may spoil, and a job that uses it.
struct Case {
    model: TempDir,
    job: Job,
}

impl Case {
    /// Configuration and tokenizer of the demonstration model, and these weights.
    fn new(weights: impl FnOnce(&Path)) -> Self {
        let model = TempDir::new().unwrap();
        for name in ["config.json", "tokenizer.json"] {
            std::fs::copy(demo_model().join(name), model.path().join(name)).unwrap();
        }
        weights(model.path());
        let job = Job::of_model(model.path(), &demo_questions(), COLUMNS, "");
        some_questions(job.folder.path(), 6);
        Self { model, job }
    }

    fn of(tensors: &Tensors) -> Self {
        Self::new(|folder| write(&folder.join("model.safetensors"), tensors))
    }

    /// The demonstration model itself.
    fn sound() -> Self {
        Self::new(|folder| {
            std::fs::copy(
                demo_model().join("model.safetensors"),
                folder.join("model.safetensors"),
            )
            .unwrap();
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.model.path().join(name)
    }

    fn command(&self, command: &str) -> Output {
        let args = [command, "job.toml", "--set", "input.path=questions.jsonl"];
        self.job.command(&args).output().unwrap()
    }

    fn run(&self) -> Output {
        self.command("run")
    }

    fn bench(&self) -> Output {
        let model = self.model.path().to_str().unwrap();
        let args = [
            "bench",
            model,
            "--device",
            "cpu",
            "--batch",
            "1",
            "--context",
            "4",
            "--steps",
            "1",
        ];
        self.job.command(&args).output().unwrap()
    }

    fn convert(&self) -> Output {
        let model = self.model.path().to_str().unwrap();
        self.job
            .command(&["convert", model, "converted", "--dtype", "f16"])
            .output()
            .unwrap()
    }

    /// The answers, and what was said on standard error.
    fn answers(&self) -> (Vec<Value>, String) {
        let output = self.run();
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        let answers = self
            .job
            .rows()
            .into_iter()
            .map(|row| row["completion"].clone());
        (answers.collect(), stderr(&output))
    }

    /// `plan` and `run` both refuse, with each of these texts.
    fn is_refused(&self, wanted: &[&str]) {
        for command in ["plan", "run"] {
            refused(&self.command(command), wanted);
        }
    }

    fn set_config(&self, key: &str, value: &Value) {
        let path = self.path("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key] = value.clone();
        std::fs::write(path, config.to_string()).unwrap();
    }
}

fn refused(output: &Output, wanted: &[&str]) {
    assert_eq!(output.status.code(), Some(2), "{}", both(output));
    for text in wanted {
        assert!(
            stderr(output).contains(text),
            "no {text:?}: {}",
            both(output)
        );
    }
}

fn sound_answers() -> Vec<Value> {
    Case::sound().answers().0
}

/// Two shards and an index; with a stale copy of the norm in the second one.
fn write_shards(folder: &Path, has_stale: bool) {
    let all = tensors();
    let is_first = |name: &str| name == NORM || name < "glm.transformer.layers.1";
    let (first, mut second): (Tensors, Tensors) =
        all.into_iter().partition(|(name, _)| is_first(name));
    let shard = |name: &str| {
        format!(
            "model-0000{}-of-00002.safetensors",
            if is_first(name) { 1 } else { 2 }
        )
    };
    let names = first.keys().chain(second.keys());
    let map: BTreeMap<String, String> = names.map(|name| (name.clone(), shard(name))).collect();
    if has_stale {
        second.insert(NORM.to_owned(), zeros(&first[NORM]));
    }
    write(&folder.join(shard(NORM)), &first);
    write(&folder.join(shard("z")), &second);
    let index = json!({ "weight_map": map }).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

fn with_both_names(is_equal: bool) -> Tensors {
    let mut all = tensors();
    let norm = if is_equal {
        all[NORM].clone()
    } else {
        zeros(&all[NORM])
    };
    all.insert(NORM.replace("glm.", ""), norm);
    all
}

#[test]
fn two_names_of_one_tensor_are_refused_unless_equal() {
    let both_named = [
        &format!("`{NORM}`")[..],
        "`transformer.final_layernorm.weight`",
        "\nhint: remove the wrong one",
    ];
    let case = Case::of(&with_both_names(false));
    case.is_refused(&both_named);
    refused(&case.convert(), &both_named);
    refused(&case.bench(), &both_named);
    let pickled = Case::new(|folder| {
        let all = with_both_names(false);
        let listed: Vec<_> = all
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        write_pickle(&folder.join("pytorch_model.bin"), &listed);
    });
    pickled.is_refused(&both_named);

    let (answers, said) = Case::of(&with_both_names(true)).answers();
    assert_eq!(answers, sound_answers());
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn names_of_a_wrapped_network_and_pickles_are_read() {
    let want = sound_answers();
    let wrapped: Tensors = tensors()
        .into_iter()
        .map(|(name, tensor)| (format!("module.{name}"), tensor))
        .collect();
    assert_eq!(Case::of(&wrapped).answers().0, want);
    let pickled = Case::new(|folder| {
        let all = tensors();
        // The later of two equal names counts, as in Python.
        let stale = zeros(&all[NORM]);
        let listed = [(NORM, &stale)]
            .into_iter()
            .chain(all.iter().map(|(name, tensor)| (name.as_str(), tensor)));
        write_pickle(
            &folder.join("pytorch_model.bin"),
            &listed.collect::<Vec<_>>(),
        );
    });
    assert_eq!(pickled.answers().0, want);
}

#[test]
fn the_index_says_which_file_holds_a_tensor() {
    let case = Case::new(|folder| write_shards(folder, true));
    let (answers, said) = case.answers();
    assert_eq!(answers, sound_answers());
    assert!(!said.contains("warning"), "{said}");
    assert_eq!(case.convert().status.code(), Some(0));
    let converted = std::fs::read(case.job.path("converted/model.safetensors")).unwrap();
    let converted = SafeTensors::deserialize(&converted).unwrap();
    assert_eq!(
        converted.tensor(NORM).unwrap().data(),
        tensors()[NORM].bytes
    );

    // The index is part of what the weights are.
    let index = case.path("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, format!("{text} ")).unwrap();
    refused(&case.run(), &["`weights` was `", "`--restart`"]);

    for (from, to, wanted) in [
        (
            NORM,
            "glm.transformer.more.weight",
            "names `glm.transformer.more.weight` in `model-00001-of-00002.safetensors`, which does not hold it\nhint: ",
        ),
        (
            "model-00002",
            "model-00003",
            "names `model-00003-of-00002.safetensors`, which is not in the folder\nhint: ",
        ),
    ] {
        std::fs::write(&index, text.replace(from, to)).unwrap();
        case.is_refused(&[&index.display().to_string(), wanted]);
    }
}

/// Makes the record of a job that has just been set up one of the first rules, with the model as it is now.
fn set_first_rules(case: &Case) {
    let out = case.job.path("out");
    let mut record = JobRecord::load(&OutputFolder::at(&out)).unwrap().unwrap();
    std::fs::rename(&out, case.job.path("before")).unwrap();
    record.rules = Rules::FIRST;
    record.resolved.weights = weights_fingerprint(
        case.model.path(),
        Fingerprinted::Files,
        &StopFlag::default(),
    )
    .unwrap();
    assert!(record.create(&OutputFolder::open(&out).unwrap()).unwrap());
}

#[test]
fn a_job_of_the_first_rules_goes_on_unless_shards_disagree() {
    let case = Case::new(|folder| write_shards(folder, false));
    let (want, _) = case.answers();
    // Under the first rules the index is not part of the fingerprint.
    let plain = Case::sound();
    plain.answers();
    set_first_rules(&plain);
    assert_eq!(plain.answers().0, want);

    let stale = Case::new(|folder| write_shards(folder, true));
    stale.answers();
    set_first_rules(&stale);
    refused(
        &stale.run(),
        &[
            &format!("`{NORM}` was read from the last shard"),
            "\nhint: begin anew with `--restart`",
        ],
    );
}

#[test]
fn a_job_of_the_first_rules_leaves_further_layers_out() {
    let case = Case::sound();
    case.answers();
    case.set_config("num_layers", &json!(1));
    set_first_rules(&case);
    // The first layer of the demonstration model knows these answers alone.
    let (answers, said) = case.answers();
    assert_eq!(answers, sound_answers());
    let left_out = "that nothing reads: `glm.transformer.layers.1.";
    assert!(said.contains(left_out), "{said}");
}

#[test]
fn a_job_of_the_first_rules_is_told_who_can_finish_it() {
    let case = Case::sound();
    case.answers();
    let mut twice = tensors();
    let other = zeros(&twice[NORM]);
    twice.insert(NORM.replace("glm.", ""), other);
    write(&case.path("model.safetensors"), &twice);
    set_first_rules(&case);
    let older = "download the model again; an earlier version began this job: finish it with that version, or begin anew with `--restart`";
    refused(&case.run(), &["are names of one tensor", older]);
    let output = case.command("plan");
    assert!(!both(&output).contains("an earlier version"));
}

#[test]
fn what_contradicts_the_configuration_is_refused() {
    let case = Case::sound();
    case.set_config("num_layers", &json!(1));
    let wanted = ["`num_layers` is 1, but the weights have 3 layers: `glm.transformer.layers.2."];
    case.is_refused(&wanted);
    refused(&case.convert(), &wanted);
    refused(&case.bench(), &wanted);
    case.set_config("num_layers", &json!(3));
    case.set_config("max_sequence_length", &json!(64));
    case.is_refused(&["position_embeddings.weight`: expected [65, 128], found [129, 128]"]);
}

#[test]
fn tensors_that_nothing_reads_are_named() {
    let mut all = tensors();
    let words = all[WORDS].clone();
    all.insert("lm_head.weight".to_owned(), words.clone());
    let number = Tensor {
        kind: Dtype::I64,
        shape: vec![1],
        bytes: vec![0; 8],
    };
    all.insert("glm.transformer.position_ids".to_owned(), number.clone());
    let (answers, said) = Case::of(&all).answers();
    assert_eq!(answers, sound_answers());
    assert!(!said.contains("warning"), "{said}");

    all.insert("lm_head.weight".to_owned(), zeros(&words));
    all.insert("glm.steps".to_owned(), number);
    let case = Case::of(&all);
    let warning = format!(
        "warning: the weights in `{}` hold tensors that nothing reads: `glm.steps`, `lm_head.weight`; the model answers \
         without them",
        case.model.path().display()
    );
    let planned = case.command("plan");
    assert!(both(&planned).contains(&warning), "{}", both(&planned));
    let (answers, said) = case.answers();
    assert_eq!(answers, sound_answers());
    assert!(said.contains(&warning), "{said}");
    let converted = case.convert();
    assert!(
        stderr(&converted).contains(&warning),
        "{}",
        both(&converted)
    );
}

#[test]
fn sizes_beyond_reason_name_their_key() {
    let case = Case::sound();
    for key in [
        "num_layers",
        "hidden_size",
        "max_sequence_length",
        "vocab_size",
        "num_attention_heads",
    ] {
        let config = std::fs::read(case.path("config.json")).unwrap();
        for size in [1_u64 << 32, u64::MAX, 1 << 25] {
            case.set_config(key, &json!(size));
            let wanted = format!("`{key}`: is {size}, more than any model has");
            case.is_refused(&[&wanted]);
            refused(&case.bench(), &[&wanted]);
        }
        std::fs::write(case.path("config.json"), config).unwrap();
    }
    // As large as may be: refused by the weights, before anything of that size is made.
    case.set_config("num_layers", &json!(10_000));
    case.set_config("hidden_size", &json!(1 << 20));
    case.is_refused(&["expected [967, 1048576], found [967, 128]", "more\nhint: "]);
    refused(
        &case.bench(),
        &["expected [967, 1048576], found [967, 128]"],
    );
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_at_once() {
    for name in [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "pytorch_model.bin",
        "model.safetensors.index.json",
    ] {
        let case = Case::sound();
        let path = case.path(name);
        if !path.exists() {
            std::fs::remove_file(case.path("model.safetensors")).unwrap();
        }
        let replace = |make: &dyn Fn()| {
            let _ = std::fs::remove_file(&path);
            make();
        };
        replace(&|| {
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.unwrap().success());
        });
        case.is_refused(&[name, "is a named pipe, not a file"]);
        if name != "tokenizer.json" {
            refused(&case.convert(), &["is a named pipe, not a file"]);
        }
        replace(&|| std::os::unix::fs::symlink("/dev/zero", &path).unwrap());
        case.is_refused(&[name, "is a device, not a file"]);
        replace(&|| std::os::unix::fs::symlink("../blobs/0a1b", &path).unwrap());
        case.is_refused(&[
            name,
            "is a link to `../blobs/0a1b`, which is not there\nhint: ",
        ]);
        replace(&|| std::fs::create_dir(&path).unwrap());
        case.is_refused(&[name, "is a folder, not a file"]);
    }
}

#[test]
fn what_stands_for_a_file_is_named() {
    for name in [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "pytorch_model.bin",
        "model.safetensors.index.json",
    ] {
        let case = Case::sound();
        if !case.path(name).exists() {
            std::fs::remove_file(case.path("model.safetensors")).unwrap();
        }
        for (content, wanted) in [
            (
                POINTER,
                "is a Git LFS pointer, not the file itself\nhint: download the file itself: `git lfs pull`",
            ),
            (
                "<!DOCTYPE html>\n<html></html>",
                "is a web page, not the file itself\nhint: ",
            ),
            ("", "is empty\nhint: "),
        ] {
            std::fs::write(case.path(name), content).unwrap();
            case.is_refused(&[name, wanted]);
        }
    }
    let shards = Case::new(|folder| write_shards(folder, false));
    std::fs::write(shards.path("model-00002-of-00002.safetensors"), POINTER).unwrap();
    shards.is_refused(&["model-00002-of-00002.safetensors`: is a Git LFS pointer"]);
}

#[test]
fn a_kind_that_is_not_read_is_named() {
    let mut all = tensors();
    let doubled = |tensor: &Tensor| Tensor {
        kind: Dtype::F64,
        shape: tensor.shape.clone(),
        bytes: vec![0; tensor.bytes.len() * 4],
    };
    let norm = doubled(&all[NORM]);
    all.insert(NORM.to_owned(), norm);
    let wanted = format!(
        "`{NORM}`: is there as F64; F32, F16 and BF16 are read\nhint: save the model in one of these kinds"
    );
    Case::of(&all).is_refused(&[&wanted]);
    let pickled = Case::new(|folder| {
        let listed: Vec<_> = all
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        write_pickle(&folder.join("pytorch_model.bin"), &listed);
    });
    pickled.is_refused(&[&wanted.replace("F64", "Double")]);
}

#[test]
fn damaged_pickles_are_errors() {
    let deep = 1_000_000;
    let nested = [vec![b']'; deep], vec![b'a'; deep - 1], vec![b'.']].concat();
    // A class of wrong arguments, a text of 4 GiB, a name that is none, and no end.
    let broken = [
        &b"}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n)Rs."[..],
        b"X\xff\xff\xff\xff",
        b"h\x09.",
        b"]",
    ];
    let all = broken.into_iter().map(<[u8]>::to_vec).chain([nested]);
    for pickle in all {
        let case = Case::new(|folder| {
            let files = [(
                "archive/data.pkl".to_owned(),
                [b"\x80\x02", &pickle[..]].concat(),
            )];
            write_archive(&folder.join("pytorch_model.bin"), &files);
        });
        let wanted = if pickle.contains(&b'R') {
            "missing"
        } else {
            "pytorch_model.bin`: is cut short or damaged: its pickle "
        };
        case.is_refused(&[wanted, "\nhint: "]);
    }
}

#[test]
fn a_path_that_leads_elsewhere_gets_the_right_one() {
    let case = Case::sound();
    let of = |path: &Path| Case {
        model: TempDir::new().unwrap(),
        job: {
            let job = Job::of_model(path, &demo_questions(), COLUMNS, "");
            some_questions(job.folder.path(), 6);
            job
        },
    };
    let folder = case.model.path().display().to_string();
    of(&case.path("config.json")).is_refused(&["is a file\nhint: name its folder, `", &folder]);
    of(&case.path("THUDM/glm-x")).is_refused(&["`hf download THUDM/glm-x --local-dir "]);
    let root = case.path("hub");
    let snapshot = root.join("snapshots/0a1b2c");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::copy(case.path("config.json"), snapshot.join("config.json")).unwrap();
    of(&root).is_refused(&[
        "is the root of a hub's cache",
        "hint: name its snapshot, `",
        "hub/snapshots/0a1b2c`",
    ]);
    let tokenized = case
        .job
        .command(&["tokenize", root.to_str().unwrap()])
        .output()
        .unwrap();
    refused(&tokenized, &["hub/snapshots/0a1b2c`"]);

    std::fs::rename(
        case.path("model.safetensors"),
        case.path("model.safetensors.incomplete"),
    )
    .unwrap();
    case.is_refused(&[
        "holds no weights\nhint: finish the download: `model.safetensors.incomplete`",
    ]);
}

#[test]
fn every_process_reads_a_folder_alike() {
    let mut odd = vec![
        Case::new(|folder| write_shards(folder, true)),
        Case::of(&with_both_names(false)),
        Case::of(&with_both_names(true)),
    ];
    let fewer = Case::sound();
    fewer.set_config("num_layers", &json!(1));
    odd.push(fewer);
    let mut more = tensors();
    for number in 0..30 {
        more.insert(format!("extra.{number}"), zeros(&more[NORM]));
    }
    odd.push(Case::of(&more));
    // Each special token is there under two ids.
    let twice = Case::sound();
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(twice.path("tokenizer.json")).unwrap()).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let again = added.clone().into_iter().map(|mut token| {
        token["id"] = json!(token["id"].as_u64().unwrap() - 900);
        token
    });
    added.extend(again.collect::<Vec<_>>());
    std::fs::write(twice.path("tokenizer.json"), tokenizer.to_string()).unwrap();
    odd.push(twice);
    for case in &odd {
        let read = || {
            let output = case.run();
            let rows = case.job.rows();
            let _ = std::fs::remove_dir_all(case.job.path("out"));
            (output.status.code(), stderr(&output), rows)
        };
        let first = read();
        for _ in 1..PROCESSES {
            assert_eq!(read(), first);
        }
    }
}
