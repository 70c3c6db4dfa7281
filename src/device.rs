//! Devices: what a job may ask for, and what it comes to on a machine.
//!
//! A [`DeviceChoice`] is asked for, as `model.device` of a job has it. The model stage looks for its devices
//! and opens them; from then on a device is a [`DeviceId`], and where only its kind matters, as in `job.json`
//! and in reports, a [`DeviceKind`].

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Which devices a model may run on, as written in a job: `auto`, `cpu`, `cuda`, `cuda:1`, `cuda:0,cuda:1`,
/// `cuda:all`, `metal`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that the build supports and the machine has, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA devices of these numbers, at least one and none twice.
    Cuda(Vec<usize>),
    /// Every CUDA device of the machine.
    CudaAll,
    /// The first Metal device.
    Metal,
}

/// One device of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceId {
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
    /// The Metal device.
    Metal,
}

/// What kind a device is: answers of one kind have the same bits, or nearly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The CPU.
    Cpu,
    /// A CUDA device.
    Cuda,
    /// A Metal device.
    Metal,
}

impl DeviceId {
    /// Whether it is the CPU.
    pub fn is_cpu(self) -> bool {
        self == Self::Cpu
    }

    /// What kind it is.
    pub fn kind(self) -> DeviceKind {
        match self {
            Self::Cpu => DeviceKind::Cpu,
            Self::Cuda(_) => DeviceKind::Cuda,
            Self::Metal => DeviceKind::Metal,
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            other => other.kind().fmt(f),
        }
    }
}

impl DeviceKind {
    /// Its name in `job.json` and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl DeviceChoice {
    fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "cuda" => Self::Cuda(vec![0]),
            "cuda:all" => Self::CudaAll,
            "metal" => Self::Metal,
            _ => Self::Cuda(cuda_numbers(word)?),
        })
    }
}

/// The numbers of `cuda:0,cuda:1`.
fn cuda_numbers(word: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for device in word.split(',') {
        let digits = device.trim().strip_prefix("cuda:")?;
        let number = digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())??;
        if numbers.contains(&number) {
            return None;
        }
        numbers.push(number);
    }
    Some(numbers)
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(numbers) => {
                let words: Vec<String> = numbers.iter().map(|n| format!("cuda:{n}")).collect();
                f.write_str(&words.join(","))
            }
            Self::CudaAll => f.write_str("cuda:all"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DeviceVisitor;

        impl Visitor<'_> for DeviceVisitor {
            type Value = DeviceChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "`auto`, `cpu`, `cuda`, `cuda:N`, `cuda:0,cuda:1`, `cuda:all` or `metal`",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DeviceChoice, E> {
                DeviceChoice::from_word(text)
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(DeviceVisitor)
    }
}

impl JsonSchema for DeviceChoice {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "anyOf": [
                { "enum": ["auto", "cpu", "cuda", "cuda:all", "metal"] },
                { "pattern": "^cuda:[0-9]+( *, *cuda:[0-9]+)*$" },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_words() {
        for (word, device) in [
            ("auto", Some(DeviceChoice::Auto)),
            ("cuda", Some(DeviceChoice::Cuda(vec![0]))),
            ("cuda:3", Some(DeviceChoice::Cuda(vec![3]))),
            ("cuda:1, cuda:0", Some(DeviceChoice::Cuda(vec![1, 0]))),
            ("cuda:all", Some(DeviceChoice::CudaAll)),
            ("cuda:1,cuda:1", None),
            ("cuda:0,", None),
            ("cuda:0,cpu", None),
            ("cuda:", None),
            ("cuda:+3", None),
            ("cuda:99999999999999999999999", None),
            ("gpu", None),
        ] {
            assert_eq!(DeviceChoice::from_word(word), device, "{word}");
        }
    }

    #[test]
    fn names_are_those_of_job_json() {
        for (device, kind, name) in [
            (DeviceId::Cpu, "cpu", "cpu"),
            (DeviceId::Cuda(1), "cuda", "cuda:1"),
            (DeviceId::Metal, "metal", "metal"),
        ] {
            assert_eq!(serde_json::to_value(device.kind()).unwrap(), kind);
            assert_eq!(
                (device.kind().name(), device.to_string().as_str()),
                (kind, name)
            );
        }
        let choice = DeviceChoice::Cuda(vec![1, 0]);
        assert_eq!(serde_json::to_value(choice).unwrap(), "cuda:1,cuda:0");
    }
}
