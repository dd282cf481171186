/** The golden events, which the Python tests read too. */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export const FOLDER = join(__dirname, '../../../tests/golden/events');

export const golden: readonly { name: string; raw: { [key: string]: unknown } }[] = readdirSync(
  FOLDER
)
  .filter(name => name.endsWith('.json'))
  .map(name => ({
    name: name.replace(/\.json$/, ''),
    raw: JSON.parse(readFileSync(join(FOLDER, name), 'utf-8')) as { [key: string]: unknown }
  }));
