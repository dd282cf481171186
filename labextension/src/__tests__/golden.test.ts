import * as assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { events } from '../wire/events';

const GOLDEN = join(process.cwd(), '..', 'tests', 'golden', 'events');
const names = readdirSync(GOLDEN).filter(name => name.endsWith('.json'));

test('there is a golden file for every kind', () => {
  assert.ok(names.length >= 24);
});

for (const name of names) {
  test(`the golden event ${name} is read with its seq and kind`, () => {
    const raw = JSON.parse(readFileSync(join(GOLDEN, name), 'utf8'));
    const [read] = events([raw]);
    assert.equal(read?.seq, raw.seq);
    assert.equal(read?.kind, raw.kind);
  });
}
