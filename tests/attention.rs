//! Attention against a naive reference in f64: each storage type, layout, CPU level, mask and a choice of shapes; and
//! the promises it makes, one test each.

#[macro_use]
mod common;

use common::{Random, Storage, all_to_f64, at_one_level, compute_roundoff, for_each_level, from_f64, to_f64};
use polyglot_bridge::{
    AttentionMask, AttentionOptions, Float, Matrix, MatrixMut, attention, attention_batch, with_threads,
};

for_each_type! {
    attention_is_right => attention_is_right_for,
    attention_is_right_for_long_rows => attention_is_right_for_long_rows_for,
    a_query_that_sees_nothing_becomes_zeros => a_query_that_sees_nothing_becomes_zeros_for,
    what_is_hidden_does_not_matter => what_is_hidden_does_not_matter_for,
    what_is_hidden_among_many_keys_does_not_matter => what_is_hidden_among_many_keys_does_not_matter_for,
    a_nan_reaches_its_rows => a_nan_reaches_its_rows_for,
    bits_do_not_depend_on_company => bits_do_not_depend_on_company_for,
    empty_operands_are_legal => empty_operands_are_legal_for,
    means_of_the_largest_values_are_finite => means_of_the_largest_values_are_finite_for,
    infinities_among_the_largest_values_stay => infinities_among_the_largest_values_stay_for,
    bits_where_sums_overflow => bits_where_sums_overflow_for,
}

/// What hides keys from queries.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hiding {
    Nothing,
    Causal,
    /// A mask of one row.
    Keys,
    Each,
    /// A mask for each query, and causal.
    Both,
    Added,
}

const HIDING: [Hiding; 6] = [Hiding::Nothing, Hiding::Causal, Hiding::Keys, Hiding::Each, Hiding::Both, Hiding::Added];

/// (queries, keys, head size, value size)
type Sizes = (usize, usize, usize, usize);

/// The operands of one call, dense.
struct Operands<T> {
    sizes: Sizes,
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    keys: Vec<bool>,
    each: Vec<bool>,
    added: Vec<T>,
}

impl<T: Float> Operands<T> {
    fn new(sizes: Sizes, random: &mut Random) -> Self {
        let (queries, keys, depth, cols) = sizes;
        let mut flags = |len: usize| (0..len).map(|_| random.below(3) > 0).collect();
        let (one, each) = (flags(keys), flags(queries * keys));
        let added = (0..queries * keys)
            .map(|_| if random.below(4) == 0 { from_f64(f64::NEG_INFINITY) } else { from_f64(random.normal()) })
            .collect();
        let (q, k, v) = (random.normals(queries * depth), random.normals(keys * depth), random.normals(keys * cols));
        Self { sizes, q, k, v, keys: one, each, added }
    }

    fn views(&self) -> [Matrix<'_, T>; 3] {
        let (queries, keys, depth, cols) = self.sizes;
        let view = |values, rows, cols| Matrix::new(values, rows, cols).expect("shape");
        [view(&self.q, queries, depth), view(&self.k, keys, depth), view(&self.v, keys, cols)]
    }

    fn options(&self, hiding: Hiding) -> AttentionOptions<'_, T> {
        let (queries, keys, ..) = self.sizes;
        let options = AttentionOptions::new().causal(matches!(hiding, Hiding::Causal | Hiding::Both));
        match hiding {
            Hiding::Nothing | Hiding::Causal => options,
            Hiding::Keys => options.mask(&self.keys[..]),
            Hiding::Each | Hiding::Both => options.mask(Matrix::new(&self.each[..], queries, keys).expect("shape")),
            Hiding::Added => {
                options.mask(AttentionMask::Add(Matrix::new(&self.added[..], queries, keys).expect("shape")))
            }
        }
    }

    fn found(&self, hiding: Hiding) -> Vec<T> {
        let (queries, _, _, cols) = self.sizes;
        let [q, k, v] = self.views();
        let mut out = vec![from_f64(-77.0); queries * cols];
        let target = MatrixMut::new(&mut out, queries, cols).expect("shape");
        attention(q, k, v, self.options(hiding), target).expect("shapes");
        out
    }

    /// The result in f64, and how far off each element may be.
    fn expected(&self, hiding: Hiding) -> (Vec<f64>, Vec<f64>)
    where
        T: Storage,
    {
        let (out, mut bounds) = self.expected_of(hiding, &all_to_f64(&self.v));
        bounds.iter_mut().zip(&out).for_each(|(bound, &right)| *bound += T::half_ulp(right) * 1.01);
        (out, bounds)
    }

    /// The same for other values, and without the rounding to `T`.
    fn expected_of(&self, hiding: Hiding, v: &[f64]) -> (Vec<f64>, Vec<f64>)
    where
        T: Storage,
    {
        let (queries, keys, depth, cols) = self.sizes;
        let (q, k) = (all_to_f64(&self.q), all_to_f64(&self.k));
        let scale = if depth == 0 { 0.0 } else { 1.0 / (depth as f64).sqrt() };
        let (mut out, mut bounds) = (vec![0.0; queries * cols], vec![0.0; queries * cols]);
        for query in 0..queries {
            let mut largest_terms = 0.0_f64;
            let scores: Vec<f64> = (0..keys)
                .map(|key| {
                    let terms = (0..depth).map(|step| q[query * depth + step] * k[key * depth + step] * scale);
                    largest_terms = largest_terms.max(terms.clone().map(f64::abs).sum());
                    let causal = matches!(hiding, Hiding::Causal | Hiding::Both) && key > query;
                    let masked = match hiding {
                        Hiding::Keys => !self.keys[key],
                        Hiding::Each | Hiding::Both => !self.each[query * keys + key],
                        _ => false,
                    };
                    let added = if hiding == Hiding::Added { to_f64(self.added[query * keys + key]) } else { 0.0 };
                    if causal || masked { f64::NEG_INFINITY } else { terms.sum::<f64>() + added }
                })
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if max == f64::NEG_INFINITY {
                continue;
            }
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            // A score's error is that of its product, and a weight's relative error is that; then come the sums.
            let steps = 2.0 * (depth as f64 + 8.0) * (largest_terms + max.abs() + 1.0) + keys as f64 + 40.0;
            for col in 0..cols {
                let term = |key: usize| weights[key] / sum * v[key * cols + col];
                let magnitude: f64 = (0..keys).map(|key| term(key).abs()).sum();
                let right = (0..keys).map(term).sum();
                out[query * cols + col] = right;
                bounds[query * cols + col] = magnitude * steps * compute_roundoff::<T>();
            }
        }
        (out, bounds)
    }
}

fn check<T: Storage>(found: &[T], (right, bounds): &(Vec<f64>, Vec<f64>), what: &str) {
    assert_eq!(found.len(), right.len(), "{what}");
    for (index, ((&value, &right), &bound)) in found.iter().zip(right).zip(bounds).enumerate() {
        let error = (to_f64(value) - right).abs();
        assert!(error <= bound, "{} {what} at {index}: {value:?}, not {right}: off by {error:e} > {bound:e}", T::NAME);
    }
}

const SIZES: [Sizes; 13] = [
    (1, 1, 1, 1),
    (1, 7, 32, 32),
    (2, 3, 5, 7),
    (3, 17, 8, 3),
    (5, 16, 16, 16),
    (7, 33, 31, 15),
    (25, 25, 32, 32),
    (31, 5, 33, 65),
    (13, 64, 64, 64),
    (6, 257, 3, 17),
    (97, 48, 7, 2),
    (2, 2, 0, 3),
    (69, 69, 32, 32),
];

fn attention_is_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(1);
        for sizes in SIZES {
            let operands = Operands::<T>::new(sizes, &mut random);
            for hiding in HIDING {
                let expected = operands.expected(hiding);
                let what = format!("{level:?} {sizes:?} {hiding:?}");
                check(&operands.found(hiding), &expected, &what);
                for gap in [false, true] {
                    let found = laid_out_otherwise(&operands, hiding, gap);
                    check(&found, &expected, &format!("{what} {gap}"));
                }
            }
        }
    });
}

/// The call with gaps between rows, or with columns where rows were; nothing may be written between the rows of out.
fn laid_out_otherwise<T: Float>(operands: &Operands<T>, hiding: Hiding, gap: bool) -> Vec<T> {
    let (queries, _, _, cols) = operands.sizes;
    let copies = operands.views().map(|matrix| {
        let (rows, cols) = matrix.shape();
        let stride = cols + 3;
        let mut data = vec![from_f64(f64::NAN); if gap { rows * stride } else { rows * cols }];
        for row in 0..rows {
            for col in 0..cols {
                data[if gap { row * stride + col } else { col * rows + row }] = matrix.get(row, col).expect("inside");
            }
        }
        (data, rows, cols)
    });
    let [q, k, v] = copies.each_ref().map(|(data, rows, cols)| {
        if gap {
            Matrix::with_strides(data, *rows, *cols, cols + 3, 1).expect("shape")
        } else {
            Matrix::new(data, *cols, *rows).expect("shape").transpose()
        }
    });
    let mut out = vec![from_f64(-77.0); queries * (cols + 5)];
    let target = MatrixMut::with_stride(&mut out, queries, cols, cols + 5).expect("shape");
    attention(q, k, v, operands.options(hiding), target).expect("shapes");
    out.chunks(cols + 5)
        .flat_map(|row| {
            assert!(row[cols..].iter().all(|value| to_f64(*value) == -77.0), "wrote in a gap");
            row[..cols].to_vec()
        })
        .collect()
}

fn attention_is_right_for_long_rows_for<T: Storage>() {
    at_one_level(|| {
        let mut random = Random::new(2);
        for sizes in [(300, 700, 24, 40), (530, 530, 16, 8), (3, 1025, 300, 290)] {
            let operands = Operands::<T>::new(sizes, &mut random);
            for hiding in HIDING {
                check(&operands.found(hiding), &operands.expected(hiding), &format!("{sizes:?} {hiding:?}"));
            }
        }
    });
}

fn a_query_that_sees_nothing_becomes_zeros_for<T: Storage>() {
    let nan = from_f64::<T>(f64::NAN);
    for_each_level(|_| {
        let mut operands = Operands::<T>::new((3, 20, 4, 5), &mut Random::new(3));
        operands.keys.fill(false);
        operands.added.fill(from_f64(f64::NEG_INFINITY));
        operands.each[20..40].fill(false);
        assert!(operands.found(Hiding::Added).iter().all(|value| to_f64(*value) == 0.0));
        operands.v.fill(nan);
        operands.k.fill(nan);
        assert!(operands.found(Hiding::Keys).iter().all(|value| to_f64(*value) == 0.0));
        assert!(operands.found(Hiding::Each)[5..10].iter().all(|value| to_f64(*value) == 0.0));
    });
}

fn what_is_hidden_does_not_matter_for<T: Storage>() {
    for_each_level(|_| {
        for hiding in [Hiding::Causal, Hiding::Keys, Hiding::Each, Hiding::Both] {
            let mut operands = Operands::<T>::new((19, 40, 6, 33), &mut Random::new(4));
            // Key 11 is hidden from all queries but those past 10 of a causal call.
            operands.keys[11] = false;
            (0..19).for_each(|query| operands.each[query * 40 + 11] = false);
            let before = operands.found(hiding);
            for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                operands.k[11 * 6..12 * 6].fill(from_f64(poison));
                operands.v[11 * 33..12 * 33].fill(from_f64(poison));
                let rows = if hiding == Hiding::Causal { 11 } else { 19 };
                assert_eq!(operands.found(hiding)[..rows * 33], before[..rows * 33], "{hiding:?} {poison}");
            }
        }
    });
}

/// More keys than are gone over at a time, so that what the first ones added up to is there when the poison comes.
fn what_is_hidden_among_many_keys_does_not_matter_for<T: Storage>() {
    const KEYS: usize = 530;
    for_each_level(|level| {
        for (hiding, queries) in [(Hiding::Causal, KEYS), (Hiding::Each, 5)] {
            let mut operands = Operands::<T>::new((queries, KEYS, 3, 17), &mut Random::new(14));
            (0..queries).for_each(|query| operands.each[query * KEYS + 525] = false);
            let rows = if hiding == Hiding::Causal { 525 } else { queries };
            let before = operands.found(hiding);
            check(&before, &operands.expected(hiding), &format!("{level:?} {hiding:?}"));
            for poison in [f64::NAN, f64::INFINITY] {
                operands.v[525 * 17..526 * 17].fill(from_f64(poison));
                assert_eq!(operands.found(hiding)[..rows * 17], before[..rows * 17], "{level:?} {hiding:?} {poison}");
            }
        }
    });
}

fn a_nan_reaches_its_rows_for<T: Storage>() {
    let nan = from_f64::<T>(f64::NAN);
    let rows_of_nan = |found: &[T]| -> Vec<usize> {
        let is_nan = |row: &[T]| row.iter().all(|value| to_f64(*value).is_nan());
        let is_clean = |row: &[T]| row.iter().all(|value| to_f64(*value).is_finite());
        found
            .chunks(5)
            .enumerate()
            .filter_map(|(index, row)| {
                assert!(is_nan(row) || is_clean(row), "a row is NaN as a whole or not at all");
                is_nan(row).then_some(index)
            })
            .collect()
    };
    for_each_level(|level| {
        let fresh = || Operands::<T>::new((6, 40, 4, 5), &mut Random::new(5));
        let mut operands = fresh();
        operands.q[9] = nan;
        assert_eq!(rows_of_nan(&operands.found(Hiding::Nothing)), [2], "{level:?}");
        let mut operands = fresh();
        operands.k[3 * 4] = nan;
        assert_eq!(rows_of_nan(&operands.found(Hiding::Nothing)), [0, 1, 2, 3, 4, 5]);
        assert_eq!(rows_of_nan(&operands.found(Hiding::Causal)), [3, 4, 5]);
        let mut operands = fresh();
        operands.v[5 * 5..6 * 5].fill(nan);
        assert_eq!(rows_of_nan(&operands.found(Hiding::Causal)), [5]);
        // Added, -inf is a weight of 0, and 0 times NaN is NaN.
        assert_eq!(rows_of_nan(&operands.found(Hiding::Added)), [0, 1, 2, 3, 4, 5]);
        // A score of +inf.
        let mut operands = fresh();
        operands.added[40] = from_f64(f64::INFINITY);
        assert_eq!(rows_of_nan(&operands.found(Hiding::Added)), [1]);
    });
}

fn bits_do_not_depend_on_company_for<T: Storage>() {
    for_each_level(|level| {
        let (queries, keys, depth, cols) = (150, 600, 32, 20);
        let mut operands = Operands::<T>::new((queries, keys, depth, cols), &mut Random::new(6));
        for hiding in HIDING {
            let whole = operands.found(hiding);
            if !matches!(hiding, Hiding::Causal | Hiding::Both) {
                for query in [0, 1, 77, 149] {
                    let [q, k, v] = operands.views();
                    let mut options = operands.options(hiding);
                    options.mask = match options.mask {
                        AttentionMask::Add(mask) => AttentionMask::Add(mask.block(query..query + 1, 0..keys)),
                        // A mask of one row leaves keys out, so give it two.
                        AttentionMask::Select(mask) if hiding == Hiding::Each => {
                            AttentionMask::Select(mask.block(query..query + 2, 0..keys))
                        }
                        mask => mask,
                    };
                    let rows = if hiding == Hiding::Each && query + 1 < queries { 2 } else { 1 };
                    if hiding == Hiding::Each && rows == 1 {
                        continue;
                    }
                    let mut alone = vec![T::ZERO; rows * cols];
                    let target = MatrixMut::new(&mut alone, rows, cols).expect("shape");
                    attention(q.block(query..query + rows, 0..depth), k, v, options, target).expect("shapes");
                    assert_eq!(alone, whole[query * cols..(query + rows) * cols], "{level:?} {hiding:?} {query}");
                }
            }
            for threads in [1, 2, 3] {
                with_threads(threads, || assert_eq!(operands.found(hiding), whole, "{level:?} {hiding:?} {threads}"));
            }
        }
        // Padding at the end, hidden by whichever mask, and keys here and there that a mask of one row hides.
        let kept: Vec<usize> = (0..keys).filter(|&key| operands.keys[key]).collect();
        let picked = |values: &[T], len: usize| -> Vec<T> {
            kept.iter().flat_map(|&key| values[key * len..(key + 1) * len].to_vec()).collect()
        };
        let mut alone = Operands::<T>::new((queries, kept.len(), depth, cols), &mut Random::new(7));
        alone.q.clone_from(&operands.q);
        (alone.k, alone.v) = (picked(&operands.k, depth), picked(&operands.v, cols));
        assert_eq!(alone.found(Hiding::Nothing), operands.found(Hiding::Keys), "{level:?}");
        let short = 333;
        for query in 0..queries {
            operands.each[query * keys..][..keys].iter_mut().enumerate().for_each(|(key, keep)| *keep = key < short);
            let row = &mut operands.added[query * keys..][..keys];
            row.iter_mut().enumerate().for_each(|(key, add)| {
                *add = from_f64(if key < short { 0.0 } else { f64::NEG_INFINITY });
            });
        }
        alone.sizes.1 = short;
        alone.k = operands.k[..short * depth].to_vec();
        alone.v = operands.v[..short * cols].to_vec();
        let expected = alone.found(Hiding::Nothing);
        assert_eq!(operands.found(Hiding::Each), expected, "{level:?}");
        assert_eq!(operands.found(Hiding::Added), expected, "{level:?}");
    });
}

fn empty_operands_are_legal_for<T: Storage>() {
    for_each_level(|_| {
        for sizes in [(0, 3, 4, 5), (3, 0, 4, 5), (3, 4, 5, 0), (0, 0, 0, 0), (2, 0, 0, 1)] {
            let operands = Operands::<T>::new(sizes, &mut Random::new(8));
            for hiding in HIDING {
                let found = operands.found(hiding);
                assert_eq!(found.len(), sizes.0 * sizes.3);
                assert!(sizes.1 > 0 || found.iter().all(|value| to_f64(*value) == 0.0));
            }
        }
    });
}

/// The largest number of a type, exact in f64.
fn largest<T: Storage>() -> f64 {
    match T::NAME {
        "f16" => 65_504.0,
        "bf16" => 255.0 * 2.0_f64.powi(120),
        "f32" => f64::from(f32::MAX),
        _ => f64::MAX,
    }
}

/// What the columns of [`huge`] hold: values of one sign, of both, one beside small ones, and ordinary ones in the last.
const KINDS: usize = 7;

/// Operands whose sums of values overflow where `T` is as wide as what is computed in.
fn huge<T: Storage>(queries: usize, keys: usize, has_equal_scores: bool) -> Operands<T> {
    const COLS: usize = 19;
    let mut random = Random::new(keys as u64);
    let mut operands = Operands::<T>::new((queries, keys, 4, COLS), &mut random);
    if has_equal_scores {
        operands.k.fill(T::ZERO);
        let is_hidden = |value: &T| to_f64(*value) == f64::NEG_INFINITY;
        operands.added.iter_mut().filter(|value| !is_hidden(value)).for_each(|value| *value = T::ZERO);
    }
    let most = largest::<T>();
    for (index, value) in operands.v.iter_mut().enumerate() {
        let (key, col) = (index / COLS, index % COLS);
        *value = from_f64(match col % KINDS {
            0 => most,
            1 => -most,
            2 => most * [1.0, -1.0][key % 2],
            3 => most * [1.0, 1.0, 1.0, -1.0, -1.0, -1.0][key % 6],
            4 => most * random.uniform(0.5..1.0),
            5 if key == 0 => most,
            _ => random.normal(),
        });
    }
    operands
}

fn means_of_the_largest_values_are_finite_for<T: Storage>() {
    // What brings any mean into f64.
    let small = 2.0_f64.powi(-64);
    for_each_level(|level| {
        for (queries, keys) in [(1, 2), (3, 3), (5, 17), (27, 40), (2, 300), (30, 530)] {
            for (hiding, has_equal_scores) in HIDING.into_iter().flat_map(|hiding| [(hiding, false), (hiding, true)]) {
                let mut operands = huge::<T>(queries, keys, has_equal_scores);
                let what = format!("{} {level:?} {queries} {keys} {hiding:?} {has_equal_scores}", T::NAME);
                let found = operands.found(hiding);
                let values: Vec<f64> = operands.v.iter().map(|&value| to_f64(value) * small).collect();
                let (right, bounds) = operands.expected_of(hiding, &values);
                for (index, (&value, (right, bound))) in found.iter().zip(right.iter().zip(bounds)).enumerate() {
                    let value = to_f64(value);
                    assert!(value.is_finite() && value.abs() <= largest::<T>(), "{what} at {index}: {value}");
                    let bound = bound + right.abs() * T::half_unit() * 2.02 + T::half_ulp(0.0) * small;
                    let error = (value * small - right).abs();
                    assert!(error <= bound, "{what} at {index}: {value:e}, not {right:e} / {small:e}");
                }
                // A column whose sums do not overflow has the bits that it has beside any others.
                let cols = operands.sizes.3;
                let is_ordinary = |index: &usize| index % cols % KINDS == KINDS - 1;
                (0..operands.v.len()).filter(|index| !is_ordinary(index)).for_each(|index| operands.v[index] = T::ZERO);
                let alone = operands.found(hiding);
                (0..alone.len()).filter(is_ordinary).for_each(|index| assert_eq!(alone[index], found[index], "{what}"));
            }
        }
    });
}

fn infinities_among_the_largest_values_stay_for<T: Storage>() {
    const KEY: usize = 11;
    let (queries, keys) = (19, 40);
    for_each_level(|level| {
        for (hiding, poison) in HIDING
            .into_iter()
            .flat_map(|hiding| [f64::INFINITY, f64::NEG_INFINITY, f64::NAN].map(|poison| (hiding, poison)))
        {
            let mut operands = huge::<T>(queries, keys, true);
            let cols = operands.sizes.3;
            operands.keys[KEY] = false;
            let before = operands.found(hiding);
            operands.v[KEY * cols..(KEY + 1) * cols].fill(from_f64(poison));
            for (index, (&found, &before)) in operands.found(hiding).iter().zip(&before).enumerate() {
                let query = index / cols;
                let is_masked = !operands.each[query * keys + KEY];
                let what = format!("{} {level:?} {hiding:?} {poison} at {index}: {found:?}", T::NAME);
                match hiding {
                    Hiding::Causal if query < KEY => assert_eq!(found, before, "{what}"),
                    Hiding::Both if query < KEY || is_masked => assert_eq!(found, before, "{what}"),
                    Hiding::Each if is_masked => assert_eq!(found, before, "{what}"),
                    Hiding::Keys => assert_eq!(found, before, "{what}"),
                    // 0 times it.
                    Hiding::Added if to_f64(operands.added[query * keys + KEY]) == f64::NEG_INFINITY => {
                        assert!(to_f64(found).is_nan(), "{what}");
                    }
                    _ if poison.is_nan() => assert!(to_f64(found).is_nan(), "{what}"),
                    _ => assert_eq!(to_f64(found), poison, "{what}"),
                }
            }
            // Both infinities.
            operands.v[12 * cols..13 * cols].fill(from_f64(f64::INFINITY));
            operands.v[13 * cols..14 * cols].fill(from_f64(f64::NEG_INFINITY));
            assert!(operands.found(Hiding::Nothing).iter().all(|value| to_f64(*value).is_nan()), "{level:?}");
        }
    });
}

fn bits_where_sums_overflow_for<T: Storage>() {
    for_each_level(|level| {
        let (queries, keys) = (70, 600);
        let mut operands = huge::<T>(queries, keys, false);
        // Rows that overflow beside others that are NaN for their scores, and one that is ordinary.
        operands.q[3 * 4] = from_f64(f64::NAN);
        let cols = operands.sizes.3;
        let whole = operands.found(Hiding::Nothing);
        let bits = |values: &[T]| -> Vec<u64> { values.iter().map(|&value| to_f64(value).to_bits()).collect() };
        assert!(whole[3 * cols..4 * cols].iter().all(|value| to_f64(*value).is_nan()));
        for query in [0, 1, 2, 4, 41, 69] {
            let [q, k, v] = operands.views();
            let mut alone = vec![T::ZERO; cols];
            attention(q.block(query..query + 1, 0..4), k, v, AttentionOptions::new(), &mut alone[..]).expect("shapes");
            assert_eq!(bits(&alone), bits(&whole[query * cols..(query + 1) * cols]), "{level:?} {query}");
        }
        for threads in [1, 3] {
            with_threads(threads, || assert_eq!(bits(&operands.found(Hiding::Nothing)), bits(&whole), "{level:?}"));
        }
    });
}

#[test]
fn heads_of_a_batch_may_differ() {
    at_one_level(|| {
        let mut random = Random::new(9);
        let all = [(5, 9, 32, 32), (120, 120, 32, 32), (1, 300, 32, 8), (0, 4, 2, 2), (300, 3, 1, 1)]
            .map(|sizes| Operands::<f32>::new(sizes, &mut random));
        let expected: Vec<_> = all.iter().map(|operands| operands.found(Hiding::Keys)).collect();
        for threads in [1, 3] {
            let mut outs: Vec<_> = expected.iter().map(|out| vec![0.0_f32; out.len()]).collect();
            let places: Vec<_> = outs.iter_mut().map(|out| Place(out.as_mut_ptr())).collect();
            with_threads(threads, || {
                attention_batch(all.len(), |index| {
                    let (rows, _, _, cols) = all[index].sizes;
                    (all[index].views(), all[index].options(Hiding::Keys), places[index].matrix(rows, cols))
                })
                .expect("shapes");
            });
            assert_eq!(outs, expected);
        }
    });
}

/// Where a result begins.
struct Place(*mut f32);

#[allow(unsafe_code, reason = "the outs of a batch are handed over again and again")]
// SAFETY: an address, each used for one head.
unsafe impl Sync for Place {}

impl Place {
    #[allow(unsafe_code, reason = "as above")]
    fn matrix(&self, rows: usize, cols: usize) -> MatrixMut<'_, f32> {
        // SAFETY: the vector that it came from has rows * cols elements and outlives the call.
        unsafe { MatrixMut::from_raw_parts(self.0, rows, cols, cols) }
    }
}

#[test]
fn the_scale_is_what_it_is_told_to_be() {
    let (q, k, v) = ([2.0_f64], [0.0, 3.0_f64.ln() / 2.0], [0.0, 4.0]);
    let column = |values| Matrix::new(values, 2, 1).expect("shape");
    for (scale, expected) in [(1.0, 3.0), (0.0, 2.0), (-1.0, 1.0)] {
        let mut out = [0.0];
        let options = AttentionOptions::new().scale(scale);
        attention(&q, column(&k), column(&v), options, &mut out).expect("shapes");
        assert!((out[0] - expected).abs() < 1e-12, "{scale}: {out:?}");
    }
}

#[test]
fn scores_of_f16_do_not_overflow() {
    // Each product is 3.6e9, far above the largest f16.
    #[cfg(feature = "f16")]
    {
        let large = [half::f16::from_f32(60_000.0); 4];
        let v = [half::f16::from_f32(1.5), half::f16::from_f32(2.5)];
        let mut out = [half::f16::ZERO];
        let k = Matrix::with_strides(&large, 2, 4, 0, 1).expect("shape");
        attention(&large, k, Matrix::new(&v, 2, 1).expect("shape"), AttentionOptions::new(), &mut out).expect("shapes");
        assert_eq!(out[0].to_f32(), 2.0);
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let ones = [1.0_f32; 12];
    let matrix = |rows, cols| Matrix::new(&ones, rows, cols).expect("shape");
    let mut out = [0.0; 12];
    let mut say = |q, k, v, options, rows, cols| {
        let out = MatrixMut::new(&mut out, rows, cols).expect("shape");
        attention::<f32>(q, k, v, options, out).expect_err("they do not fit").to_string()
    };
    let none = AttentionOptions::new;
    assert_eq!(
        say(matrix(2, 3), matrix(4, 2), matrix(4, 2), none(), 2, 2),
        "attention: k has shape (4, 2), expected (4, 3)"
    );
    assert_eq!(
        say(matrix(2, 3), matrix(4, 3), matrix(3, 2), none(), 2, 2),
        "attention: v has shape (3, 2), expected (4, 2)"
    );
    assert_eq!(
        say(matrix(2, 3), matrix(4, 3), matrix(4, 2), none(), 2, 3),
        "attention: out has shape (2, 3), expected (2, 2)"
    );
    assert_eq!(
        say(matrix(2, 3), matrix(4, 3), matrix(4, 2), none().mask(&[true; 3]), 2, 2),
        "attention: mask has shape (1, 3), expected (2, 4)"
    );
}
