//! A weight matrix as the kernels want it: panels of sixteen rows, so that each lane of a wide register is one row.
//!
//! A register then multiplies four columns of sixteen rows with four numbers of the input at once, and no sum ever runs
//! across lanes. The numbers are those of the file, bit for bit, in another order; that is why the matrix is a copy and the
//! file's pages can go. A panel is read from front to back once for all tokens of a step.

use super::pages::{Pages, Part};
use super::{Dtype, StoredTensor, pack};
use std::fmt;

/// Rows of one panel.
pub const PANEL_ROWS: usize = 16;

/// How a panel is laid out. Columns come in groups of 32, each with `values`: four columns of sixteen rows to a
/// register's 64 bytes.
///
/// The value of a row is `scale * (number - offset) - least`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Groups of 16 scales (f16) and 256 bytes of nibbles; offset 8. `Q4_0`.
    Nibbles,
    /// Groups of 16 scales and 16 least values (f16, to be added) and 256 bytes of nibbles. `Q4_1`.
    NibblesFrom,
    /// Eight groups below 16 scales and 16 scales of least values (f16); each with 16 + 16 factors (u8) and nibbles. `Q4_K`.
    NibblesK,
    /// Groups of 16 scales (f16) and 512 bytes; offset 128. `Q8_0`, `Q5_0`.
    Bytes,
    /// Groups of 16 scales and 16 least values (f16, to be added) and 512 bytes. `Q5_1`.
    BytesFrom,
    /// As `NibblesK` with 512 bytes. `Q5_K`.
    BytesK,
    /// Eight groups below 16 scales (f16); each with two times 16 factors (i8) for its halves, and 512 bytes; offset 32. `Q6_K`.
    BytesHalves,
    /// One column of sixteen rows behind the other, as `f32`.
    F32,
    /// As `f16`.
    F16,
    /// As `bf16`.
    Bf16,
}

impl Layout {
    /// The layout for a storage type.
    #[must_use]
    pub const fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::Bf16,
            Dtype::Q4_0 => Self::Nibbles,
            Dtype::Q4_1 => Self::NibblesFrom,
            Dtype::Q4K => Self::NibblesK,
            Dtype::Q8_0 | Dtype::Q5_0 => Self::Bytes,
            Dtype::Q5_1 => Self::BytesFrom,
            Dtype::Q5K => Self::BytesK,
            Dtype::Q6K => Self::BytesHalves,
        }
    }

    /// Columns of the smallest part of a panel that stands for itself, and its bytes.
    #[must_use]
    pub const fn part(self) -> (usize, usize) {
        match self {
            Self::Nibbles => (32, 32 + 256),
            Self::NibblesFrom => (32, 64 + 256),
            Self::NibblesK => (256, 64 + 8 * (32 + 256)),
            Self::Bytes => (32, 32 + 512),
            Self::BytesFrom => (32, 64 + 512),
            Self::BytesK => (256, 64 + 8 * (32 + 512)),
            Self::BytesHalves => (256, 32 + 8 * (32 + 512)),
            Self::F32 => (1, 64),
            Self::F16 | Self::Bf16 => (1, 32),
        }
    }

    /// Whether the input is multiplied as 8-bit numbers.
    #[must_use]
    pub const fn is_quantised(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }
}

/// A matrix of `rows` outputs and `columns` inputs.
pub struct Matrix {
    rows: usize,
    columns: usize,
    layout: Layout,
    panel_bytes: usize,
    lines: Part,
}

impl fmt::Debug for Matrix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Matrix({} x {}, {:?})", self.rows, self.columns, self.layout)
    }
}

/// Runs a function for each number below a count, on several threads where it can.
pub type ForEach<'a> = dyn FnMut(usize, &(dyn Fn(usize) + Sync)) + 'a;

impl Matrix {
    /// Reorders stored rows into panels. The last panel is filled up with rows of zeros.
    ///
    /// # Errors
    /// A sentence where a shape does not fit, or there is no memory.
    pub fn pack(stored: &StoredTensor<'_>, pages: &mut Pages, for_each: &mut ForEach<'_>) -> Result<Self, String> {
        let (rows, columns) = stored.rows_and_columns();
        let layout = Layout::of(stored.dtype);
        let (part_columns, part_bytes) = layout.part();
        if rows == 0 || columns == 0 || !columns.is_multiple_of(part_columns) {
            return Err(format!("a matrix of {rows} x {columns} cannot be stored as {}", stored.dtype));
        }
        let panel_bytes = columns / part_columns * part_bytes;
        let panels = rows.div_ceil(PANEL_ROWS);
        let mut lines = pages.take(panels * panel_bytes)?;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
        let slots: Vec<std::sync::Mutex<&mut [u8]>> = bytes[..panels * panel_bytes].chunks_mut(panel_bytes).map(Into::into).collect();
        for_each(panels, &|panel| {
            // Nobody else wants this panel; the lock only tells the compiler.
            let mut slot = slots[panel].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            pack::panel(stored, panel * PANEL_ROWS, &mut slot);
        });
        drop(slots);
        Ok(Self { rows, columns, layout, panel_bytes, lines })
    }

    /// Outputs.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// How panels are laid out.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Panels, the last one perhaps of fewer rows.
    #[must_use]
    pub const fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// The bytes of one panel.
    #[must_use]
    pub fn panel(&self, panel: usize) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.lines);
        &bytes[panel * self.panel_bytes..][..self.panel_bytes]
    }

    /// Bytes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }
}
