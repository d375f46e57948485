import { parsePrefix, related } from './address.ts';
import { type Incident, severities, type Severity } from './api.ts';

/** What selects incidents; the names are those of the interface and of the page's address. Empty means any. */
export interface Filter {
  status: '' | 'open' | 'ended';
  kind: string;
  min_severity: '' | Severity;
  asn: string;
  prefix: string;
}

export const noFilter: Readonly<Filter> = { status: '', kind: '', min_severity: '', asn: '', prefix: '' };

export function filterFrom(parameters: URLSearchParams): Filter {
  const value = (name: string) => parameters.get(name)?.trim() ?? '';
  const status = value('status');
  const severity = value('min_severity');
  return {
    status: status === 'open' || status === 'ended' ? status : '',
    kind: value('kind'),
    min_severity: severities.find((s) => s === severity) ?? '',
    asn: value('asn').replace(/^as/i, ''),
    prefix: value('prefix'),
  };
}

/** Whether the server would list the incident; undefined when only the server can tell. */
export function matches(filter: Filter, incident: Incident): boolean | undefined {
  if (filter.status && incident.status !== filter.status) return false;
  if (filter.kind && incident.kind !== filter.kind) return false;
  if (filter.min_severity && severities.indexOf(incident.severity) < severities.indexOf(filter.min_severity)) return false;
  if (filter.asn) {
    const wanted = Number(filter.asn);
    if (![incident.offenders, incident.accomplices, incident.victims].some((list) => list?.includes(wanted))) return false;
  }
  if (filter.prefix) {
    const wanted = parsePrefix(filter.prefix);
    if (!wanted) return false;
    const listed = incident.prefixes ?? [];
    const hit = listed.some((p) => {
      const affected = parsePrefix(p.prefix);
      return affected !== undefined && related(wanted, affected);
    });
    if (!hit) return incident.prefix_count > listed.length ? undefined : false;
  }
  return true;
}
