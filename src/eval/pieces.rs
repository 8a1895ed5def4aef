//! Connected pieces of a class, as they stand in a picture.

/// Rows below a piece in which its ground is looked for; annotators leave a gap there.
pub const FOOT_GAP: usize = 3;

/// A connected piece (8 neighbours).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its pixels, row by row, in no order.
    pub pixels: Vec<usize>,
    /// First row.
    pub top: usize,
    /// Last row.
    pub bottom: usize,
}

/// All pieces of the pixels that `belong`, of neighbours that are `joined`.
pub fn pieces(
    (width, height): (usize, usize),
    belongs: impl Fn(usize) -> bool,
    joined: impl Fn(usize, usize) -> bool,
) -> Vec<Piece> {
    let mut seen = vec![false; width * height];
    let mut found = Vec::new();
    let mut open = Vec::new();
    for start in 0..width * height {
        if seen[start] || !belongs(start) {
            continue;
        }
        let mut piece = Piece { pixels: Vec::new(), top: start / width, bottom: start / width };
        seen[start] = true;
        open.push(start);
        while let Some(at) = open.pop() {
            let (x, y) = (at % width, at / width);
            piece.pixels.push(at);
            piece.top = piece.top.min(y);
            piece.bottom = piece.bottom.max(y);
            for ny in y.saturating_sub(1)..(y + 2).min(height) {
                for nx in x.saturating_sub(1)..(x + 2).min(width) {
                    let next = ny * width + nx;
                    if !seen[next] && belongs(next) && joined(at, next) {
                        seen[next] = true;
                        open.push(next);
                    }
                }
            }
        }
        found.push(piece);
    }
    found
}

impl Piece {
    /// Rows.
    pub fn height(&self) -> usize {
        self.bottom - self.top + 1
    }

    /// Leftmost and rightmost column of each row, from the top.
    pub fn extents(&self, width: usize) -> Vec<(usize, usize)> {
        let mut extents = vec![(usize::MAX, 0); self.height()];
        for &at in &self.pixels {
            let extent = &mut extents[at / width - self.top];
            *extent = (extent.0.min(at % width), extent.1.max(at % width));
        }
        extents
    }

    /// Pixels under its lowest row, as wide as that, [`FOOT_GAP`] rows high.
    pub fn under(&self, (width, height): (usize, usize)) -> impl Iterator<Item = usize> {
        let foot = self.extents(width).last().copied().unwrap_or((0, 0));
        let rows = self.bottom + 1..(self.bottom + 1 + FOOT_GAP).min(height);
        rows.flat_map(move |y| (foot.0..=foot.1).map(move |x| y * width + x))
    }
}
