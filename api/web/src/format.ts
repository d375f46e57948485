/** Numbers and times as people read them. All times are UTC: an operator compares them with logs. */

export const asn = (n: number): string => `AS${n}`;

const counts = new Intl.NumberFormat('en-GB');
export const count = (n: number): string => counts.format(n);
export const plural = (n: number, one: string, many = `${one}s`): string => `${count(n)} ${n === 1 ? one : many}`;

/** A probability; never rounded up to certainty or down to none. */
export function percent(p: number): string {
  if (p > 0.99 && p < 1) return p > 0.999 ? '>99.9 %' : `${(Math.floor(p * 1000) / 10).toFixed(1)} %`;
  if (p < 0.01 && p > 0) return '<1 %';
  return `${Math.round(p * 100)} %`;
}

export const signed = (n: number): string => `${n < 0 ? '−' : '+'}${Math.abs(n).toFixed(2)}`;

/** A length of time in at most two units: "42 s", "3 min 5 s", "2 h 14 min", "3 d 4 h". */
export function duration(milliseconds: number): string {
  const s = Math.max(0, Math.round(milliseconds / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 && s < 600 ? ` ${s % 60} s` : ''}`;
  if (s < 86400) return `${Math.floor(s / 3600)} h${Math.floor((s % 3600) / 60) ? ` ${Math.floor((s % 3600) / 60)} min` : ''}`;
  return `${Math.floor(s / 86400)} d${s < 864000 && Math.floor((s % 86400) / 3600) ? ` ${Math.floor((s % 86400) / 3600)} h` : ''}`;
}

export const ago = (milliseconds: number): string => (milliseconds < 1500 ? 'just now' : `${duration(milliseconds)} ago`);

const pad = (n: number): string => String(n).padStart(2, '0');

/** The instant in milliseconds; undefined for nothing, for rubbish, and for Go's zero time. */
export function instant(text: string | null | undefined): number | undefined {
  const t = Date.parse(text ?? '');
  return Number.isNaN(t) || t < -6e13 ? undefined : t;
}

const date = (d: Date): string => `${d.getUTCFullYear()}-${pad(d.getUTCMonth() + 1)}-${pad(d.getUTCDate())}`;
export const clockTime = (t: number): string => {
  const d = new Date(t);
  return `${pad(d.getUTCHours())}:${pad(d.getUTCMinutes())}:${pad(d.getUTCSeconds())}`;
};

const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** As short as it can be said on the day of `reference`: "18:47:57", "23 Feb 18:47", "24 Feb 2008". */
export function shortTime(t: number, reference: number): string {
  const [d, r] = [new Date(t), new Date(reference)];
  if (date(d) === date(r)) return clockTime(t);
  const day = `${d.getUTCDate()} ${months[d.getUTCMonth()]}`;
  return Math.abs(reference - t) < 300 * 86_400_000 ? `${day} ${pad(d.getUTCHours())}:${pad(d.getUTCMinutes())}` : `${day} ${d.getUTCFullYear()}`;
}

/** "2008-02-24 18:47:57", and without the date when that is the day of `reference`. */
export function time(t: number, reference?: number): string {
  const day = date(new Date(t));
  return reference !== undefined && date(new Date(reference)) === day ? clockTime(t) : `${day} ${clockTime(t)}`;
}
