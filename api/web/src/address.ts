/** Just enough of IP prefixes to tell in the browser whether a live incident fits a filter. */

export interface ParsedPrefix {
  bits: bigint;
  length: number;
  width: 32 | 128;
}

function parseIPv4(text: string): bigint | undefined {
  const parts = text.split('.');
  if (parts.length !== 4) return undefined;
  let value = 0n;
  for (const part of parts) {
    if (!/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return undefined;
    value = (value << 8n) | BigInt(part);
  }
  return value;
}

function parseIPv6(text: string): bigint | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const groups = halves.map((half) => (half === '' ? [] : half.split(':')));
  const [head = [], tail = []] = groups;
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  let value = 0n;
  for (const group of [...head, ...Array<string>(missing).fill('0'), ...tail]) {
    if (!/^[0-9a-f]{1,4}$/i.test(group)) return undefined;
    value = (value << 16n) | BigInt(`0x${group}`);
  }
  return value;
}

/** Reads a prefix, or an address as its host prefix; undefined when text is neither. */
export function parsePrefix(text: string): ParsedPrefix | undefined {
  const [address = '', length, ...more] = text.trim().split('/');
  if (more.length > 0) return undefined;
  const width = address.includes(':') ? 128 : 32;
  const bits = width === 128 ? parseIPv6(address) : parseIPv4(address);
  if (bits === undefined) return undefined;
  if (length === undefined) return { bits, length: width, width };
  if (!/^(0|[1-9]\d{0,2})$/.test(length) || Number(length) > width) return undefined;
  return { bits, length: Number(length), width };
}

/** Whether one of the two contains the other, or they are the same. */
export function related(a: ParsedPrefix, b: ParsedPrefix): boolean {
  if (a.width !== b.width) return false;
  const shift = BigInt(a.width - Math.min(a.length, b.length));
  return a.bits >> shift === b.bits >> shift;
}

/** Reads "AS64500" or "64500"; undefined when text is no AS number. */
export function parseASN(text: string): number | undefined {
  const digits = /^(?:as)?(\d{1,10})$/i.exec(text.trim())?.[1];
  const value = Number(digits);
  return digits !== undefined && value > 0 && value <= 0xffffffff ? value : undefined;
}
