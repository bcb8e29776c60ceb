//! Which way a block of a product goes: one decision, asked once a block. ARCHITECTURE.md has it as a table, "Which way
//! a product goes", with the reasons; the test below reads that table and compares.

use super::micro_kernel::{MAX_WIDENING_MR, Registers};
use crate::view::MAX_MR_OVERLAPPING;
use crate::workspace::MOST_SHARED;

/// How a block is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// One row times one column.
    Dot,
    /// Few rows, and a row-major weight whose rows are read from end to end. What is left of a panel of columns goes
    /// through tiles.
    GemvRows,
    /// One row, and a column-major weight that is transposed in registers.
    GemvColumns,
    /// The loops of the macro-kernel over register tiles.
    Tiles(PanelSource),
}

/// Where the panels of columns come from that register tiles read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PanelSource {
    /// The weight is packed.
    Packed,
    /// The rows of the weight, where they lie. What is left of a panel of columns is packed.
    InPlace,
    /// Likewise, in panels that begin on cache lines, the first `lead` columns before the weight's first. The first
    /// panel and the last lie over part of their neighbours, and none is packed.
    Overlapping { lead: usize },
    /// Packed for each block of k, just before use.
    PackEachBlock,
    /// Packed before the blocks, which then find it [`Packed`](PanelSource::Packed).
    PackOnce,
}

#[cfg(feature = "python")]
impl Plan {
    /// What `explain` knows it by.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dot => "dot",
            Self::GemvRows => "gemv_rows",
            Self::GemvColumns => "gemv_columns",
            Self::Tiles(PanelSource::Packed) => "packed",
            Self::Tiles(PanelSource::InPlace | PanelSource::Overlapping { .. }) => "in_place",
            Self::Tiles(PanelSource::PackEachBlock) => "pack_each_block",
            Self::Tiles(PanelSource::PackOnce) => "pack_once",
        }
    }
}

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(super) order: Order,
    /// Whether it is stored in the compute type, so that it need not be widened.
    pub(super) is_native: bool,
    /// Whether x is a contiguous row and the weight a contiguous column, both in the compute type.
    pub(super) is_dot: bool,
}

/// The order of a weight's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Packed,
    /// Contiguous rows: how many bytes they are spread over, and how many columns of a panel that begins on a cache
    /// line lie before the first column.
    RowMajor {
        span: usize,
        misalignment: usize,
    },
    /// Contiguous columns.
    ColumnMajor,
    Strided,
}

impl Layout {
    /// The columns of a panel on a cache line that lie before the first column, 0 where rows are not alike in this.
    pub(super) fn misalignment(&self) -> usize {
        match self.order {
            Order::RowMajor { misalignment, .. } => misalignment,
            _ => 0,
        }
    }

    /// The same weight wherever it needs most memory to compute with: so many columns off a cache line.
    pub(super) fn misaligned(mut self, by: usize) -> Self {
        if let Order::RowMajor { misalignment, .. } = &mut self.order {
            *misalignment = by;
        }
        self
    }
}

/// A row-major weight that spans at most so many bytes is never packed: it stays in the cache's second level, from
/// where tiles read it fast enough.
const MAX_SPAN_L2: usize = 1 << 20;

/// One that spans at most so many bytes is expected in the third level.
const MAX_SPAN_L3: usize = 16 << 20;

/// The most rows for which that is not packed: to pack it would cost more than it gains.
const MAX_M_IN_PLACE: usize = 200;

/// The most rows that read a weight in place, wherever it lies.
pub(super) const MAX_M_GEMV: usize = 16;

/// The fewest panels for which it matters how rows lie in their cache lines.
const MIN_PANELS_ALIGNED: usize = 8;

/// So many bytes of a row are read about as fast as all of it.
const LONG_PIECE: usize = 1024;

/// The way of a block of `m` rows, `n` columns and `k` steps, or of a whole product that is cut into `row_blocks`
/// blocks of rows.
pub(super) fn plan((m, n, k): (usize, usize, usize), layout: &Layout, row_blocks: usize, registers: Registers) -> Plan {
    let Registers { panel, .. } = registers;
    if (m, n) == (1, 1) && layout.is_dot {
        return Plan::Dot;
    }
    let packed = || {
        let bytes = n.div_ceil(panel).saturating_mul(64).saturating_mul(k);
        let once = row_blocks > 1 && (1..=MOST_SHARED).contains(&bytes);
        Plan::Tiles(if once { PanelSource::PackOnce } else { PanelSource::PackEachBlock })
    };
    // More rows than that fill more than one tile, and each would widen the weight anew.
    if !layout.is_native && m > MAX_WIDENING_MR {
        return packed();
    }
    match layout.order {
        Order::Packed => Plan::Tiles(PanelSource::Packed),
        Order::ColumnMajor if m == 1 && n >= panel => Plan::GemvColumns,
        Order::RowMajor { span, misalignment } if n >= panel => {
            row_major((m, n), (span, misalignment), registers).unwrap_or_else(packed)
        }
        _ => packed(),
    }
}

/// Whether and how a row-major weight of a panel or more is read in place.
fn row_major((m, n): (usize, usize), (span, misalignment): (usize, usize), registers: Registers) -> Option<Plan> {
    // Tile after tile would read one cache line of each row, and these fall into few sets of the cache.
    let would_thrash = m > registers.max_mr() && registers.max_panels(registers.max_mr()) == 1;
    // Tiles of one row read pieces of a kilobyte where registers are many.
    let in_short_pieces = registers.max_panels(1) * 64 < LONG_PIECE && n > LONG_PIECE / 64 * registers.panel;
    let is_far = span > MAX_SPAN_L3;
    let gemv = match m {
        1 => is_far || in_short_pieces,
        _ => m <= MAX_M_GEMV && (is_far || would_thrash),
    };
    let max_m = match span {
        _ if is_far || would_thrash => MAX_M_GEMV,
        ..=MAX_SPAN_L2 => usize::MAX,
        _ => MAX_M_IN_PLACE,
    };
    if gemv {
        Some(Plan::GemvRows)
    } else if m > max_m {
        None
    } else if m <= MAX_MR_OVERLAPPING && n / registers.panel >= MIN_PANELS_ALIGNED {
        Some(Plan::Tiles(PanelSource::Overlapping { lead: misalignment }))
    } else {
        Some(Plan::Tiles(PanelSource::InPlace))
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    /// What a row of the table is asked about.
    struct Case {
        m: usize,
        n: usize,
        layout: Layout,
        row_blocks: usize,
        packed_bytes: usize,
        registers: Registers,
    }

    /// Whether a number is what a cell says: `any`, `1`, `up to 4`, `over 4`, `from 4`, `2 to 16`; `scale` is what the
    /// unit behind it stands for.
    fn fits(cell: &str, number: usize, scale: impl Fn(&str) -> usize) -> bool {
        let words: Vec<&str> = cell.split(' ').collect();
        let at = |index: usize| {
            let number = words[index].parse::<usize>().unwrap_or_else(|_| panic!("no number: {cell}"));
            number * words.last().map_or(1, |unit| scale(unit))
        };
        match words[0] {
            "any" => true,
            "up" => number <= at(2),
            "over" => number > at(1),
            "from" => number >= at(1),
            _ if words.get(1) == Some(&"to") => (at(0)..=at(2)).contains(&number),
            _ => number == at(0),
        }
    }

    fn holds(cells: &[&str], case: &Case) -> bool {
        let Case { m, n, layout, row_blocks, packed_bytes, registers } = case;
        let one = |_: &str| 1;
        let bytes = |unit: &str| match unit {
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            _ => 1,
        };
        let rows = match cells[0].split_once(", ") {
            Some(("over a tile", rest)) => *m > registers.max_mr() && fits(rest, *m, one),
            _ => fits(cells[0], *m, one),
        };
        let cols = match cells[1].split(' ').next_back() {
            Some("KiB") => fits(cells[1], n * 64 / registers.panel, bytes),
            _ => fits(cells[1], *n, |unit| if unit.starts_with("panel") { registers.panel } else { 1 }),
        };
        let (order, span) = match layout.order {
            Order::Packed => ("packed", 0),
            Order::RowMajor { span, .. } => ("row-major", span),
            Order::ColumnMajor => ("column-major", 0),
            Order::Strided => ("strided", 0),
        };
        let weight = match cells[2] {
            "any" => true,
            "contiguous, x too" => layout.is_dot,
            cell => cell == order,
        };
        let stored = match cells[3] {
            "any" => true,
            cell => layout.is_native == (cell == "compute type"),
        };
        let blocks = match cells[6].split_once(", ") {
            Some(("several", rest)) => {
                *row_blocks > 1 && *packed_bytes > 0 && fits(rest.trim_end_matches(" packed"), *packed_bytes, bytes)
            }
            _ => fits(cells[6], *row_blocks, one),
        };
        rows && cols
            && weight
            && stored
            && fits(cells[4], span, bytes)
            && fits(cells[5], registers.vectors, one)
            && blocks
    }

    /// The table of ARCHITECTURE.md, of which the first row that fits holds, is the function, and each of its rows is
    /// needed.
    #[test]
    #[cfg_attr(miri, ignore = "a grid of 200,000 cases, and no memory to watch")]
    fn plans_are_those_of_the_table_in_architecture_md() {
        let text = include_str!("../../ARCHITECTURE.md");
        let (_, text) = text.split_once("## Which way a product goes").expect("the heading");
        let table: Vec<Vec<&str>> = text
            .lines()
            .skip_while(|line| !line.starts_with("|---"))
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        assert!(table.len() > 10, "{table:?}");
        let mut used = std::vec![0; table.len()];
        let spans = [0, MAX_SPAN_L2 - 1, MAX_SPAN_L2, MAX_SPAN_L2 + 1, MAX_SPAN_L3, MAX_SPAN_L3 + 1];
        let mut orders: Vec<Order> = spans.map(|span| Order::RowMajor { span, misalignment: 5 }).into();
        orders.extend([Order::Packed, Order::ColumnMajor, Order::Strided]);
        for registers in [1, 2, 4].into_iter().flat_map(|vectors| [8, 16].map(|panel| Registers { panel, vectors })) {
            for (m, n) in [1_usize, 2, 3, 4, 5, 6, 7, 12, 13, 16, 17, 100, 200, 201, 1000].into_iter().flat_map(|m| {
                [1_usize, 2, 7, 8, 15, 16, 17, 63, 64, 127, 128, 129, 256, 257, 300, 1000].map(move |n| (m, n))
            }) {
                for (&order, k) in orders.iter().flat_map(|order| [0, 1, 700, 1 << 16].map(move |k| (order, k))) {
                    for (is_native, is_dot) in [(true, true), (true, false), (false, false)] {
                        let layout = Layout { order, is_native, is_dot };
                        for row_blocks in if m > MAX_M_GEMV { 1..3 } else { 1..2 } {
                            let packed_bytes = n.div_ceil(registers.panel) * 64 * k;
                            let case = Case { m, n, layout, row_blocks, packed_bytes, registers };
                            let row = table.iter().position(|cells| holds(cells, &case)).expect("a row");
                            used[row] += 1;
                            let plan: String = format!("{:?}", plan((m, n, k), &layout, row_blocks, registers));
                            let expected = table[row][7].trim_matches('`');
                            let plan = plan.replace(" { lead: 5 }", "");
                            assert_eq!(
                                plan, expected,
                                "{m} x {k} x {n}, {layout:?}, {row_blocks}, {registers:?}: {:?}",
                                table[row]
                            );
                        }
                    }
                }
            }
        }
        assert!(used.iter().all(|&count| count > 0), "rows that nothing reaches: {used:?}");
    }
}
