"""What a device that works beside the host keeps of the rows: their block tables, and the token that each got last."""

import numpy as np
import torch

from octavo.execution.row_tables import IntArray, RowTables
from octavo.kernels.upload import upload


class DeviceRows:
    """Copies of a part of `RowTables`, brought up to date by what changes."""

    def __init__(self, tables: RowTables, device: torch.device) -> None:
        self._tables = tables
        self._device = device
        self._copy_all()

    def _copy_all(self) -> None:
        self.block_tables = self._tables.block_tables.to(self._device, copy=True)
        """As those of `RowTables`."""
        self._last_tokens = torch.zeros(self.block_tables.shape[1], dtype=torch.int64, device=self._device)

    def follow(self) -> None:
        """Take the block tables' last changes over."""
        blocks, edited = self._tables.blocks, self._tables.edited
        if self.block_tables.shape != blocks.shape:
            last_tokens = self._last_tokens
            self._copy_all()
            self._last_tokens[: len(last_tokens)] = last_tokens
        elif edited:
            num_groups, num_rows, max_blocks = blocks.shape
            own = np.concatenate([np.arange(first, end) + row * max_blocks for row, first, end in edited])
            places = (own + np.arange(num_groups)[:, np.newaxis] * (num_rows * max_blocks)).ravel()
            changes = upload(np.stack((places, blocks.reshape(-1)[places])), self._device)
            self.block_tables.view(-1).index_copy_(0, changes[0], changes[1])

    def keep(self, rows: IntArray, token_ids: torch.Tensor) -> None:
        """Note the tokens, `[n]` on the device, that some rows have got."""
        self._last_tokens.index_copy_(0, upload(rows, self._device), token_ids)

    def fill_in(self, token_ids: torch.Tensor) -> None:
        """Put the last token of row `r` wherever `-1 - r` stands, in place."""
        rows = (-1 - token_ids).clamp_(min=0)
        token_ids.copy_(torch.where(token_ids < 0, self._last_tokens.index_select(0, rows), token_ids))
