//! The pairing of rows with columns at the least total cost: successive shortest augmenting paths over a sparse graph, with
//! potentials. Exact, and deterministic: the same graph gives the same pairs. Pure.
//!
//! Every row may also stay alone, at a cost of its own. So a pairing always exists, and few edges a row are enough.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A row of the graph.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Columns, each at most once, and the cost of the pair.
    pub edges: Vec<(usize, i64)>,
    /// The cost of staying alone.
    pub alone: i64,
}

/// What a row gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// `None`: it stays alone.
    pub column: Option<usize>,
    /// What the row costs, and what others would save if they had its column. A further edge of the row that costs no less, to a column
    /// that nobody else wants, would change nothing.
    pub price: i64,
}

/// For each row what it gets. No column is given twice, and the total cost is the least
/// possible. Of pairings that cost the same, an earlier row keeps what it has.
///
/// Each row costs one search for a shortest path, `O(edges · log edges)` at most and a handful of edges usually.
pub fn least_cost(rows: &[Row], columns: usize) -> Vec<Pair> {
    let mut search = Search::new(rows, columns);
    (0..rows.len()).for_each(|row| search.add(row));
    let pair = |(row, column): (usize, &Option<usize>)| Pair {
        column: column.filter(|c| *c < columns),
        price: column.map_or(rows[row].alone, |column| search.given_up(row, column)),
    };
    search.of_row.iter().enumerate().map(pair).collect()
}

/// Columns from `columns` on are those of the rows that stay alone: one each, which only that row can have. The last row has the
/// first of them, so that of equal costs it is the one to stay alone.
struct Search<'a> {
    rows: &'a [Row],
    columns: usize,
    row_of: Vec<Option<usize>>,
    of_row: Vec<Option<usize>>,
    potential: Vec<i64>,
    /// Of the search under way: the cost of the shortest path found to a column, the row before it, whether it is final.
    distance: Vec<i64>,
    before: Vec<usize>,
    is_final: Vec<bool>,
    reached: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(rows: &'a [Row], columns: usize) -> Self {
        let all = columns + rows.len();
        Self {
            rows,
            columns,
            row_of: vec![None; all],
            of_row: vec![None; rows.len()],
            potential: vec![0; all],
            distance: vec![i64::MAX; all],
            before: vec![0; all],
            is_final: vec![false; all],
            reached: Vec::new(),
        }
    }

    /// The cost of the pair of `row` and its own column, without what the column is worth to others.
    fn given_up(&self, row: usize, column: usize) -> i64 {
        let edge = self.rows[row].edges.iter().find(|(c, _)| *c == column);
        edge.map_or(self.rows[row].alone, |(_, cost)| *cost) - self.potential[column]
    }

    /// Gives `row` a column, along the cheapest chain of rows that move to another column.
    fn add(&mut self, row: usize) {
        let mut heap = BinaryHeap::new();
        self.relax(row, 0, &mut heap);
        let mut end = None;
        while let Some(Reverse((distance, column))) = heap.pop() {
            if self.is_final[column] || distance > self.distance[column] {
                continue;
            }
            self.is_final[column] = true;
            let Some(holder) = self.row_of[column] else {
                end = Some((column, distance));
                break;
            };
            // The holder of the column would move on: it gives up the cost of this pair.
            let base = distance - self.given_up(holder, column);
            self.relax(holder, base, &mut heap);
        }
        if let Some((column, distance)) = end {
            self.augment(row, column, distance);
        }
        for column in self.reached.drain(..) {
            self.distance[column] = i64::MAX;
            self.is_final[column] = false;
        }
    }

    fn relax(&mut self, row: usize, base: i64, heap: &mut BinaryHeap<Reverse<(i64, usize)>>) {
        let rows = self.rows;
        let own = (self.columns + rows.len() - 1 - row, rows[row].alone);
        for &(column, cost) in rows[row].edges.iter().chain([&own]) {
            let distance = base + cost - self.potential[column];
            if !self.is_final[column] && distance < self.distance[column] {
                if self.distance[column] == i64::MAX {
                    self.reached.push(column);
                }
                self.distance[column] = distance;
                self.before[column] = row;
                heap.push(Reverse((distance, column)));
            }
        }
    }

    fn augment(&mut self, first: usize, last: usize, least: i64) {
        for &column in self.reached.iter().filter(|c| self.is_final[**c]) {
            self.potential[column] += self.distance[column] - least;
        }
        let mut column = last;
        loop {
            let row = self.before[column];
            let given_up = self.of_row[row].replace(column);
            self.row_of[column] = Some(row);
            match given_up {
                Some(next) if row != first => column = next,
                _ => break,
            }
        }
    }
}
