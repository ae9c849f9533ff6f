// Writes a column in capital letters.

const KEEP = 0;
const REJECT = 2;
const decoder = new TextDecoder();
const encoder = new TextEncoder();

const schema = {
  type: 'object',
  properties: { column: { type: 'string', description: 'The column to change.' } },
  required: ['column'],
  additionalProperties: false,
};

// Processes the rows of one file.
class Session {
  static open(config, header) {
    const { column } = JSON.parse(config);
    const place = header.indexOf(column);
    if (place < 0) {
      throw { tag: 'config', val: `there is no column \`${column}\`; found ${header.join(', ')}` };
    }
    return { session: new Session(), wanted: Uint32Array.of(place), added: [] };
  }

  process(input) {
    const cells = [];
    for (let row = 0; row < input.rows; row += 1) {
      cells.push(decoder.decode(input.data.subarray(input.offsets[row], input.offsets[row + 1])));
    }
    const empty = cells.flatMap((cell, row) => (cell === '' ? [row] : []));
    return {
      verdicts: Uint8Array.from(cells, (cell) => (cell === '' ? REJECT : KEEP)),
      rejections: empty.map((row) => ({ row, column: 0, code: 'no-value', reason: 'the cell is empty' })),
      changed: Uint32Array.of(0),
      values: columnOf(cells.map((cell) => cell.toUpperCase())),
    };
  }
}

// One column in the form of the contract: the bytes of the cells, and where each begins and ends.
function columnOf(cells) {
  const encoded = cells.map((cell) => encoder.encode(cell));
  const offsets = new Uint32Array(cells.length + 1);
  encoded.forEach((cell, row) => { offsets[row + 1] = offsets[row] + cell.length; });
  const data = new Uint8Array(offsets[cells.length]);
  encoded.forEach((cell, row) => data.set(cell, offsets[row]));
  return { rows: cells.length, data, offsets, validity: new Uint8Array() };
}

export const processor = {
  describe: () => ({
    name: '{{name}}',
    version: '0.1.0',
    summary: 'Writes a column in capital letters.',
    configSchema: JSON.stringify(schema),
  }),
  Session,
};
