/** What the names of the interface mean in plain words. */

interface Kind {
  name: string;
  meaning: string;
}

const kinds: Record<string, Kind> = {
  origin_hijack: { name: 'Origin hijack', meaning: 'A network announces a prefix that belongs to another.' },
  subprefix_hijack: { name: 'More-specific hijack', meaning: 'A network announces a part of another network’s prefix; routers prefer the smaller block, so traffic follows it.' },
  forged_path: { name: 'Forged path', meaning: 'The origin looks right, but a network put itself beside it over a link that does not exist.' },
  forged_path_subprefix: { name: 'Forged path, more-specific', meaning: 'A part of a prefix, with the right origin at the end of a path that does not exist.' },
  squatting: { name: 'Squatting', meaning: 'Use of address space that nobody announces or that is not allocated.' },
  route_leak: { name: 'Route leak', meaning: 'A network passes routes on to a neighbour it should not give them to.' },
  reorigination_leak: { name: 'Re-origination leak', meaning: 'A network announces many routes of others as its own.' },
  internal_specifics_leak: { name: 'Internal more-specifics leak', meaning: 'A network lets a burst of its own internal routes out.' },
  blackhole_leak: { name: 'Blackhole route leak', meaning: 'A route meant to discard traffic in one network escaped from it.' },
  misconfiguration_prepend: { name: 'Prepending mistake', meaning: 'The origin is a prepend count typed as an AS number.' },
  misconfiguration_typo_asn: { name: 'Mistyped AS number', meaning: 'An AS number one slip away from the right one.' },
  misconfiguration_typo_prefix: { name: 'Mistyped prefix', meaning: 'A prefix one slip away from the right one.' },
  private_asn_leak: { name: 'Private AS number', meaning: 'An AS number for private use in the global table.' },
  bogon_asn: { name: 'Reserved AS number', meaning: 'A reserved AS number in the global table.' },
  bogon_prefix: { name: 'Reserved prefix', meaning: 'Reserved address space in the global table.' },
  rpki_invalid: { name: 'RPKI invalid', meaning: 'The announcement contradicts a published authorisation (ROA), with no sign of a hijack.' },
  roa_change: { name: 'ROA change', meaning: 'A change of authorisations (ROAs) made stable routes invalid.' },
  visibility_loss: { name: 'Loss of visibility', meaning: 'A prefix vanished from most of the peers that carry the full table.' },
  new_neighbour: { name: 'New neighbour', meaning: 'A watched network has a neighbour that its watch does not allow.' },
  new_prefix: { name: 'New prefix', meaning: 'A watched network announces a prefix that its watch does not allow.' },
  path_policy: { name: 'Path policy', meaning: 'A path that a watch forbids.' },
  feed_blind: { name: 'Blind feed', meaning: 'A collector lags, is down, or lost most of its peers.' },
};

export const kindNames: readonly string[] = Object.keys(kinds);
export const kindName = (kind: string): string => kinds[kind]?.name ?? kind.replaceAll('_', ' ');
export const kindMeaning = (kind: string): string => kinds[kind]?.meaning ?? '';

const leakTypes: Record<number, string> = {
  1: 'hairpin turn with the full prefix: learned from one provider, passed on to another',
  2: 'lateral leak: learned from one peer, passed on to another',
  3: 'learned from a provider, passed on to a peer',
  4: 'learned from a peer, passed on to a provider',
  5: 're-origination of routes of others',
  6: 'internal more-specifics let out',
};

export const leakType = (type: number): string => `RFC 7908 type ${type}${leakTypes[type] ? ` (${leakTypes[type]})` : ''}`;

const changes: Record<string, string> = {
  opened: 'Opened',
  grew: 'Grew',
  receded: 'Receded',
  severity_changed: 'Severity changed',
  ended: 'Ended',
  reopened: 'Came back',
  unmuted: 'No longer muted',
};

export const changeName = (change: string): string => changes[change] ?? change;

const rpkiStates: Record<string, string> = { valid: 'Valid', invalid: 'Invalid', not_found: 'Not found', unavailable: 'Unavailable' };
const irrStates: Record<string, string> = { registered: 'Registered', contradicted: 'Contradicted', not_found: 'Not found', unavailable: 'Unavailable' };

export const rpkiName = (state: string): string => rpkiStates[state] ?? state;
export const irrName = (state: string): string => irrStates[state] ?? state;

const sources: Record<string, string> = {
  vrps: 'RPKI: who may originate what',
  rtr: 'RPKI, from a cache by RTR',
  slurm: 'Local exceptions to the RPKI',
  irr: 'Routing registries',
  as_rel: 'Relationships of networks',
  as_org: 'Organisations behind networks',
  peeringdb: 'PeeringDB: exchanges and networks',
  delegated: 'Registries: who holds what',
};
const sourceStates: Record<string, string> = { fresh: 'Fresh', stale: 'Stale', missing: 'Missing' };

/** A source may have a number after its kind: "irr-2". */
export const sourceName = (name: string): string => sources[name.replace(/-\d+$/, '')] ?? name;
export const sourceStateName = (state: string): string => sourceStates[state] ?? state;

const feedStates: Record<string, string> = {
  connecting: 'Connecting',
  connected: 'Connected',
  stalled: 'Stalled',
  lagging: 'Lagging',
  done: 'Read to the end',
};

export const feedStateName = (state: string): string => feedStates[state] ?? state;
