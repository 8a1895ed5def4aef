//! The TensorRT engines in the pickle records of a TorchScript archive.
//!
//! libtorch's pickler writes an engine as `GLOBAL __torch__.torch.classes.tensorrt Engine`, `EMPTY_TUPLE`, `NEWOBJ`, the
//! state, `BUILD`. The state is a list of strings, wrapped in `restore_type_tag(list, "List[str]")`; a string that was
//! written before, anywhere in the record, is a reference to the memo.

use crate::pickle::{read, Failure, Heap, Meaning, Value};

/// Engines in one record, and strings of one engine: bounds, so that a hostile record stays small in memory.
/// Torch-TensorRT writes at most 12 strings.
const MOST_ENGINES: usize = 1024;
const MOST_STRINGS: usize = 64;

/// `module.name` of a global: libtorch joins them, wherever they part.
const ENGINE: &[u8] = b"__torch__.torch.classes.tensorrt.Engine";
/// `module` and `name`, which libtorch compares one by one.
const RESTORE_TYPE_TAG: (&[u8], &[u8]) = (b"torch.jit._pickle", b"restore_type_tag");

/// The strings of each engine, once it is built.
struct Engines<'a>(Vec<Option<Vec<&'a [u8]>>>);

/// An engine, by its number.
type Engine<'a> = Value<'a, usize>;

/// The strings of each engine in the record, in the order in which libtorch creates them.
///
/// # Errors
/// The record ends early, uses an operation that libtorch does not write, or an engine's state is no list of strings.
pub(super) fn engines(record: &[u8]) -> Result<Vec<Vec<&[u8]>>, Failure> {
    let mut engines = Engines(Vec::new());
    read(record, &mut engines)?;
    let built: Option<Vec<_>> = engines.0.into_iter().collect();
    built.ok_or_else(|| "an engine is created, but its state is missing".into())
}

fn is_engine_class(value: Engine) -> bool {
    matches!(value, Value::Global(module, name) if [module, name].join(&b'.') == ENGINE)
}

const CREATED_OTHERWISE: &str = "an engine is created without NEWOBJ and BUILD";

impl<'a> Meaning<'a> for Engines<'a> {
    type Made = usize;

    fn call(
        &mut self,
        heap: &mut Heap<'a, usize>,
        callee: Engine<'a>,
        arguments: Engine<'a>,
    ) -> Result<Engine<'a>, Failure> {
        match (callee, arguments) {
            // The tag says what the list holds; the list itself comes back.
            (Value::Global(module, name), Value::Sequence(arguments)) if (module, name) == RESTORE_TYPE_TAG => {
                Ok(*heap.sequences[arguments].first().unwrap_or(&Value::Opaque))
            }
            // libtorch would create one here as well; its pickler never writes that.
            (Value::Made(_), _) => Err(CREATED_OTHERWISE.into()),
            _ if is_engine_class(callee) => Err(CREATED_OTHERWISE.into()),
            _ => Ok(Value::Opaque),
        }
    }

    fn create(&mut self, _: &mut Heap<'a, usize>, class: Engine<'a>, _: Engine<'a>) -> Result<Engine<'a>, Failure> {
        if !is_engine_class(class) {
            return Ok(Value::Opaque);
        }
        if self.0.len() == MOST_ENGINES {
            return Err(format!("it has more than {MOST_ENGINES} engines"));
        }
        self.0.push(None);
        Ok(Value::Made(self.0.len() - 1))
    }

    fn build(&mut self, heap: &Heap<'a, usize>, object: Engine<'a>, state: Engine<'a>) -> Result<(), Failure> {
        let number = match object {
            Value::Made(number) => number,
            _ if is_engine_class(object) => return Err(CREATED_OTHERWISE.into()),
            _ => return Ok(()),
        };
        if self.0[number].is_some() {
            return Err(format!("engine {number} has a second state"));
        }
        let Value::Sequence(list) = state else {
            return Err(format!("the state of engine {number} is no list"));
        };
        let list = &heap.sequences[list];
        if list.len() > MOST_STRINGS {
            return Err(format!("the state of engine {number} has more than {MOST_STRINGS} values"));
        }
        let texts = list.iter().map(|value| match value {
            Value::Text(text) => Some(*text),
            _ => None,
        });
        let texts: Option<Vec<_>> = texts.collect();
        self.0[number] = Some(texts.ok_or_else(|| format!("the state of engine {number} holds more than texts"))?);
        Ok(())
    }
}
