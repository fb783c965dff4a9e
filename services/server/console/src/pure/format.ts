/** Texts of times, money and lengths. Pure: the time zone is the runtime's, now is an argument. */

export interface Money {
  amount: number;
  currency: string;
}

/**
 * ISO 4217: two decimals but for these, as in `streams/src/event/money.rs`. `Intl` has what is usual in shops instead, which for
 * some currencies are fewer.
 */
const DECIMALS: Record<number, string> = {
  0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
  3: "BHD IQD JOD KWD LYD OMR TND",
};

export function decimals(currency: string): number {
  const found = Object.entries(DECIMALS).find(([, codes]) => codes.split(" ").includes(currency));
  return found ? Number(found[0]) : 2;
}

export function money({ amount, currency }: Money): string {
  const digits = decimals(currency);
  try {
    return new Intl.NumberFormat("en", {
      style: "currency",
      currency,
      minimumFractionDigits: digits,
      maximumFractionDigits: digits,
    })
      .format(amount / 10 ** digits)
      .replace("-", "−");
  } catch {
    return `${amount / 10 ** digits} ${currency}`;
  }
}

/** What somebody typed, as minor units; nothing if it is no amount above 0 or has too many decimals. */
export function minorUnits(text: string, currency: string): number | null {
  const match = /^(\d{1,9})(?:\.(\d+))?$/.exec(text.trim().replace(",", "."));
  const digits = decimals(currency);
  const fraction = match?.[2] ?? "";
  if (!match || fraction.length > digits) return null;
  const amount = Number(match[1]) * 10 ** digits + Number(fraction.padEnd(digits, "0") || 0);
  return amount > 0 ? amount : null;
}

export function count(value: number): string {
  return new Intl.NumberFormat("en").format(value);
}

export function metres(value: number): string {
  if (value < 995) return `${Math.round(value)} m`;
  return value < 99_500 ? `${(value / 1000).toFixed(1)} km` : `${Math.round(value / 1000)} km`;
}

export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${at === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

/** 850 ms, 4.2 s, 3 min 20 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds: number): string {
  const s = Math.abs(seconds);
  if (s < 0.9995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  const pair = (big: number, bigUnit: string, small: number, smallUnit: string) =>
    small === 0 ? `${big} ${bigUnit}` : `${big} ${bigUnit} ${small} ${smallUnit}`;
  const whole = Math.round(s);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return pair(Math.floor(whole / 60), "min", whole % 60, "s");
  const minutes = Math.round(s / 60);
  if (minutes < 1440) return pair(Math.floor(minutes / 60), "h", minutes % 60, "min");
  const hours = Math.round(s / 3600);
  return pair(Math.floor(hours / 24), "d", hours % 24, "h");
}

/** The time of a text; null if it is none. */
export function instant(text: string): Date | null {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? null : date;
}

const two = (value: number) => String(value).padStart(2, "0");
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** 14:03:07, in the viewer's zone. */
export function clock(at: Date): string {
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function clockMillis(at: Date): string {
  return `${clock(at)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

/** The clock alone for today, with the day before that, with the year for another year. */
export function when(at: Date, now: Date): string {
  const sameYear = at.getFullYear() === now.getFullYear();
  if (sameYear && at.getMonth() === now.getMonth() && at.getDate() === now.getDate()) return clock(at);
  const day = `${at.getDate()} ${MONTHS[at.getMonth()] ?? ""}`;
  return sameYear ? `${day} ${clock(at)}` : `${day} ${at.getFullYear()} ${clock(at)}`;
}

/** For the tooltip of every time. */
export function utc(at: Date): string {
  return Number.isNaN(at.getTime()) ? "no time" : `${at.toISOString().replace("T", " ").replace("Z", "")} UTC`;
}

export function ago(at: Date, now: Date): string {
  const seconds = (now.getTime() - at.getTime()) / 1000;
  if (seconds < 0) return Math.round(-seconds) === 0 ? "now" : `in ${coarse(-seconds)}`;
  return seconds < 1 ? "now" : `${coarse(seconds)} ago`;
}

/** One unit alone. */
export function coarse(seconds: number): string {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** The last characters of an id: the first ones of a UUIDv7 are its time and alike. */
export function shortId(id: string): string {
  return id.length > 12 ? `…${id.slice(-8)}` : id;
}

/** `no_show` as words. */
export function words(code: string): string {
  return code.replaceAll("_", " ");
}

/** `ride.pickup` and `no_show` with a capital. */
export function title(code: string): string {
  const text = words(code);
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function percent(part: number): string {
  return `${part >= 0.0005 && part < 0.0995 ? (part * 100).toFixed(1) : Math.round(part * 100)} %`;
}
