//! Tests of reading pickles, written out byte by byte.

use super::*;

/// `{"x": tensor}` as `torch.save` writes it.
const ONE: &[u8] = b"\x80\x02}q\x00X\x01\x00\x00\x00xq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03\
    ctorch\nHalfStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x06tq\x07QK\x02K\x02K\x02\x86q\x08K\x02K\x01\x86q\x09\
    \x89ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0ds.";

#[test]
fn a_tensor_is_described() {
    let Checkpoint::Tensors(tensors) = read(ONE).unwrap() else {
        panic!("no tensors");
    };
    let place = TensorPlace {
        storage: "0".to_owned(),
        offset: 2,
        shape: vec![2, 2],
        strides: vec![2, 1],
    };
    assert_eq!(tensors.len(), 1);
    assert_eq!(
        tensors["x"],
        PickledTensor {
            kind: "Half".to_owned(),
            place: Some(place)
        }
    );
    let below = [
        b"\x80\x02}X\x01\x00\x00\x00m",
        &ONE[2..ONE.len() - 1],
        b"s.",
    ]
    .concat();
    assert_eq!(read(&below), Ok(Checkpoint::Below("m".to_owned())));
}

#[test]
fn a_cut_pickle_is_an_error_at_every_byte() {
    for end in 0..ONE.len() {
        assert_eq!(read(&ONE[..end]), Err("ends early".to_owned()), "{end}");
    }
    for (bytes, want) in [
        (&b"."[..], "takes a value where none is"),
        (b"a.", "takes a value where none is"),
        (b"N(a.", "takes a value where none is"),
        (b"t.", "closes what was not opened"),
        (b"}(Nu.", "has a key without a value"),
        (b"h\x05.", "recalls what it never kept"),
        (b"X\xff\xff\xff\xff.", "ends early"),
        (b"N.", "holds no tensors by name"),
        (b"\xff.", "has an instruction that is unknown here, 0xff"),
    ] {
        assert_eq!(read(bytes), Err(want.to_owned()), "{bytes:?}");
    }
}

#[test]
fn depth_and_repeats_cost_a_list() {
    let deep = 1_000_000;
    let bytes = [vec![b']'; deep], vec![b'a'; deep - 1], vec![b'.']].concat();
    assert_eq!(read(&bytes), Err("holds no tensors by name".to_owned()));
    // Each list holds the one before twice: 2^60 values if they were copied.
    let twice = b"]h\x00h\x00\x86aq\x00".repeat(60);
    let bytes = [&b"]q\x00"[..], &twice, b"."].concat();
    assert_eq!(read(&bytes), Err("holds no tensors by name".to_owned()));
}

#[test]
fn wrong_arguments_are_no_tensor() {
    for (from, to) in [
        (&b"K\x02K\x02\x86q\x08"[..], &b"NK\x02\x86q\x08"[..]),
        (b"Q", b"0N"),
    ] {
        let at = ONE
            .windows(from.len())
            .position(|found| found == from)
            .unwrap();
        let bytes = [&ONE[..at], to, &ONE[at + from.len()..]].concat();
        assert_eq!(
            read(&bytes),
            Ok(Checkpoint::Tensors(BTreeMap::new())),
            "{from:?}"
        );
    }
    for (bytes, want) in [
        (&b"\x8a\x02\xff\xff"[..], -1),
        (b"\x8a\x00", 0),
        (b"J\xff\xff\xff\xff", -1),
        (b"\x8a\x02\x00\x01", 256),
    ] {
        let bytes = [bytes, b"."].concat();
        let mut reader = Reader::new(&bytes);
        let top = reader.run().unwrap();
        assert!(
            matches!(reader.values[top], Value::Number(number) if number == want),
            "{bytes:?}"
        );
    }
}
