#!/bin/bash
# Runs tpm2-tools against the TPM of TPM2TOOLS_TCTI, in an empty directory, and prints for every invocation: its number,
# the command, its exit status and the TPM's response code if there is one, then what it printed.
#
# t COMMAND...   one invocation whose output has values that differ from TPM to TPM: its lines start with "~"
# T COMMAND...   one whose output is determined
LC_ALL=C
n=0
run() {
  n=$((n + 1))
  local mark=$1
  shift
  local rc code= line
  eval "$@" > out 2> err < /dev/null
  rc=$?
  [[ $(< err) =~ \(0x0000[0-9A-Fa-f]*\) ]] && code=${BASH_REMATCH[0]}
  echo "$n $* -> $rc $code"
  while IFS= read -r line; do echo "$mark$line"; done < out
  # The tools leave objects loaded, and sessions when they fail.
  case "$*" in
    tpm2_getcap* | tpm2_pcr* | tpm2_nvd* | tpm2_nvr* | tpm2_nvw* | tpm2_policyr* | tpm2_sessionconfig*) ;;
    *.ctx* | *0x81*) tpm2_flushcontext -t > /dev/null 2>&1 ;;
  esac
  if [ $rc != 0 ]; then tpm2_flushcontext -l > /dev/null 2>&1; fi
}
t() { run "~" "$@"; }
T() { run "" "$@"; }

echo data > data
echo other > other
head -c 3000 /dev/zero > big
head -c 64 /dev/zero > block
head -c 16 /dev/zero > iv
head -c 8 /dev/zero > eight

t tpm2_startup -c
T tpm2_startup -c
T tpm2_selftest -f
T tpm2_gettestresult
T tpm2_incrementalselftest rsa ecc
t tpm2_getrandom --hex 20
T "tpm2_getrandom 64 | wc -c"
T "tpm2_getrandom -f 100 | wc -c"
T tpm2_stirrandom data
t tpm2_readclock
T tpm2_getcap handles-pcr
T tpm2_getcap handles-nv-index
T tpm2_getcap handles-loaded-session
T tpm2_getcap handles-saved-session
T tpm2_getcap handles-transient
T tpm2_getcap handles-persistent
T tpm2_getcap pcrs
t tpm2_testparms rsa2048
T tpm2_testparms rsa2047
T tpm2_testparms ecc256
T tpm2_testparms ecc384
T tpm2_testparms aes128cfb
T tpm2_testparms aes256ctr
T tpm2_testparms hmac:sha256
T tpm2_testparms keyedhash

# PCRs
T tpm2_pcrread
T tpm2_pcrextend 0:sha1=$(printf 'a%.0s' {1..40}),sha256=$(printf 'b%.0s' {1..64})
T tpm2_pcrextend 8:sha384=$(printf 'c%.0s' {1..96}),sha512=$(printf 'd%.0s' {1..128})
T tpm2_pcrread sha1:0,8+sha256:0,8,16+sha384:8+sha512:8
T tpm2_pcrevent data
T tpm2_pcrevent 16 data
T tpm2_pcrread sha256:16
T tpm2_pcrreset 16
T tpm2_pcrreset 0
T tpm2_pcrreset 23
T tpm2_pcrreset 17
T tpm2_pcrextend 17:sha256=$(printf 'b%.0s' {1..64})
T tpm2_pcrread sha256:16,17,23
T tpm2_pcrallocate sha1:all+sha256:all
T tpm2_pcrallocate sha1:all+sha256:all+sha384:all+sha512:all

# Hashes
T tpm2_hash -g sha1 --hex data
T tpm2_hash -g sha256 --hex data
T tpm2_hash -g sha384 --hex big
T tpm2_hash -g sha512 --hex big
t tpm2_hash -C o -g sha256 -o h.bin -t h.tk data
t tpm2_hash -C e -g sha256 -o hb.bin -t hb.tk big

# Primary objects
t tpm2_createprimary -C o -g sha256 -G ecc256 -c p.ctx
t tpm2_createprimary -C o -g sha256 -G rsa2048 -c prsa.ctx
t tpm2_createprimary -C e -g sha384 -G ecc384 -c p384.ctx
t tpm2_createprimary -C p -g sha512 -G ecc521 -c p521.ctx
t tpm2_createprimary -C n -g sha1 -G ecc256 -c pn.ctx
T tpm2_createprimary -C o -g sha256 -G ecc999 -c x.ctx
t tpm2_createprimary -C o -G aes128cfb -c paes.ctx
t tpm2_readpublic -c p.ctx -n p.name
t tpm2_readpublic -c prsa.ctx -f pem -o prsa.pem
T "tpm2_createprimary -C o -g sha256 -G ecc256 -c p2.ctx > /dev/null; tpm2_readpublic -c p2.ctx -n p2.name > /dev/null; cmp p.name p2.name && echo same"

# Ordinary objects
t tpm2_create -C p.ctx -G rsa2048 -u rsa.pub -r rsa.priv -p rsapass
t tpm2_create -C p.ctx -G ecc256 -u ecc.pub -r ecc.priv
t tpm2_create -C p.ctx -G ecc384:ecdsa-sha384 -u ecc384.pub -r ecc384.priv
t tpm2_create -C p.ctx -G aes128cfb -u aes.pub -r aes.priv
t tpm2_create -C p.ctx -G aes256 -u aes256.pub -r aes256.priv
t tpm2_create -C p.ctx -G hmac -u hmac.pub -r hmac.priv
t tpm2_create -C p.ctx -G rsa2048:rsapss:null -u pss.pub -r pss.priv -a "'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign'"
t tpm2_create -C p.ctx -G rsa2048:oaep -u oaep.pub -r oaep.priv -a "'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|decrypt'"
T "tpm2_create -C p.ctx -u bad.pub -r bad.priv -G ecc256 -a 'fixedtpm|sign' > /dev/null"
T "tpm2_create -C p.ctx -u bad.pub -r bad.priv -G aes128cfb -a 'restricted|sign|decrypt|sensitivedataorigin' > /dev/null"
t "echo secret | tpm2_create -C p.ctx -u seal.pub -r seal.priv -i- -p sealpass"
t tpm2_load -C p.ctx -u rsa.pub -r rsa.priv -c rsa.ctx
t tpm2_load -C p.ctx -u ecc.pub -r ecc.priv -c ecc.ctx
t tpm2_load -C p.ctx -u ecc384.pub -r ecc384.priv -c ecc384.ctx
t tpm2_load -C p.ctx -u aes.pub -r aes.priv -c aes.ctx
t tpm2_load -C p.ctx -u aes256.pub -r aes256.priv -c aes256.ctx
t tpm2_load -C p.ctx -u hmac.pub -r hmac.priv -c hmac.ctx
t tpm2_load -C p.ctx -u pss.pub -r pss.priv -c pss.ctx
t tpm2_load -C p.ctx -u oaep.pub -r oaep.priv -c oaep.ctx
t tpm2_load -C p.ctx -u seal.pub -r seal.priv -c seal.ctx
T tpm2_load -C prsa.ctx -u ecc.pub -r ecc.priv -c x.ctx
T tpm2_load -C p.ctx -u ecc.pub -r rsa.priv -c x.ctx
T tpm2_unseal -c seal.ctx -p sealpass
T tpm2_unseal -c seal.ctx -p wrong
T tpm2_dictionarylockout -c
t tpm2_create -C paes.ctx -G ecc256 -u sub.pub -r sub.priv
t tpm2_load -C paes.ctx -u sub.pub -r sub.priv -c sub.ctx
t tpm2_create -C p.ctx -G ecc256 -c cl.ctx
t tpm2_changeauth -c rsa.ctx -C p.ctx -p rsapass -r rsa2.priv newpass
t tpm2_load -C p.ctx -u rsa.pub -r rsa2.priv -c rsa2.ctx

# Signatures
t tpm2_sign -c rsa.ctx -p rsapass -g sha256 -o rsa.sig data
T tpm2_verifysignature -c rsa.ctx -g sha256 -m data -s rsa.sig
T tpm2_verifysignature -c rsa.ctx -g sha256 -m other -s rsa.sig
t tpm2_sign -c rsa2.ctx -p newpass -g sha256 -o rsa2.sig data
T tpm2_sign -c rsa2.ctx -p rsapass -g sha256 -o rsa2.sig data
t tpm2_sign -c rsa.ctx -p rsapass -s rsapss -g sha1 -o rsapss.sig data
T tpm2_verifysignature -c rsa.ctx -g sha1 -m data -s rsapss.sig
t tpm2_sign -c pss.ctx -g sha256 -o pss.sig data
T tpm2_verifysignature -c pss.ctx -g sha256 -m data -s pss.sig
t tpm2_sign -c ecc.ctx -g sha256 -o ecc.sig data
T tpm2_verifysignature -c ecc.ctx -g sha256 -m data -s ecc.sig
t tpm2_sign -c ecc384.ctx -g sha384 -o ecc384.sig data
T tpm2_verifysignature -c ecc384.ctx -g sha384 -m data -s ecc384.sig
T tpm2_sign -c ecc384.ctx -g sha256 -o x.sig data
T tpm2_sign -c aes.ctx -g sha256 -o x.sig data
t tpm2_sign -c ecc.ctx -s ecschnorr -g sha256 -o schnorr.sig data
t tpm2_hmac -c hmac.ctx --hex data
t tpm2_hmac -c hmac.ctx --hex big
t tpm2_hmac -c hmac.ctx -t hm.tk -o hm.bin data

# Encryption
t tpm2_rsaencrypt -c rsa.ctx -s rsaes -o enc.rsaes data
T tpm2_rsadecrypt -c rsa.ctx -p rsapass -s rsaes enc.rsaes
t tpm2_rsaencrypt -c rsa.ctx -s oaep -o enc.oaep data
T tpm2_rsadecrypt -c rsa.ctx -p rsapass -s oaep enc.oaep
T tpm2_rsadecrypt -c rsa.ctx -p rsapass -s rsaes enc.oaep
t tpm2_rsaencrypt -c oaep.ctx -s oaep -o enc.o data
T tpm2_rsadecrypt -c oaep.ctx -s oaep enc.o
t tpm2_encryptdecrypt -c aes.ctx -t iv -o enc.aes block
T tpm2_encryptdecrypt -c aes.ctx -t iv -d -o dec.aes enc.aes
T cmp block dec.aes
t tpm2_encryptdecrypt -c aes256.ctx -G cbc -t iv -o enc.cbc block
T "tpm2_encryptdecrypt -c aes256.ctx -G cbc -t iv -d -o dec.cbc enc.cbc; cmp dec.cbc block"
t tpm2_encryptdecrypt -c aes256.ctx -G ctr -t iv -o enc.ctr big
T "tpm2_encryptdecrypt -c aes256.ctx -G ctr -t iv -d -o dec.ctr enc.ctr; cmp dec.ctr big"
t tpm2_encryptdecrypt -c aes256.ctx -G ofb -t iv -o enc.ofb block
t tpm2_encryptdecrypt -c aes256.ctx -G ecb -o enc.ecb block
T tpm2_encryptdecrypt -c ecc.ctx -t iv -o x block
t tpm2_ecdhkeygen -c ecc.ctx -u ecdh.pub -o ecdh.z
T "tpm2_ecdhzgen -c ecc.ctx -u ecdh.pub -o ecdh.z2; cmp ecdh.z ecdh.z2 && echo same"
t tpm2_geteccparameters ecc256 -o ecc.par
t tpm2_ecephemeral -u eph.pub -t eph.ctr ecc256
t tpm2_commit -c ecc.ctx -t commit.ctr --eccpoint-K k --eccpoint-L l -u e
t tpm2_create -C p.ctx -G ecc256:ecdaa -u daa.pub -r daa.priv -a "'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign'"
t tpm2_load -C p.ctx -u daa.pub -r daa.priv -c daa.ctx
t tpm2_commit -c daa.ctx -t commit.ctr --eccpoint-K k --eccpoint-L l -u e

# Sessions
t tpm2_startauthsession -S s.ctx
t tpm2_policypassword -S s.ctx -L pw.policy
T "xxd -p -c 100 pw.policy"
t tpm2_policyrestart -S s.ctx
t tpm2_policyauthvalue -S s.ctx -L av.policy
T "xxd -p -c 100 av.policy"
t tpm2_policyrestart -S s.ctx
T tpm2_policycommandcode -S s.ctx -L cc.policy TPM2_CC_Unseal
t tpm2_policyrestart -S s.ctx
T tpm2_policylocality -S s.ctx -L loc.policy zero
t tpm2_policyrestart -S s.ctx
T tpm2_policynvwritten -S s.ctx -L nvw.policy s
t tpm2_policyrestart -S s.ctx
T tpm2_policypcr -S s.ctx -l sha256:0,8 -L pcr.policy
t tpm2_policyrestart -S s.ctx
T tpm2_policyor -S s.ctx -L or.policy sha256:pw.policy,pcr.policy
t tpm2_policyrestart -S s.ctx
T tpm2_policysecret -S s.ctx -c o -L sec.policy
t tpm2_policyrestart -S s.ctx
t tpm2_policyduplicationselect -S s.ctx -N p.name -L dup.policy
T tpm2_flushcontext s.ctx
t tpm2_startauthsession -S h.ctx --hmac-session
T tpm2_flushcontext h.ctx
t tpm2_startauthsession -S salted.ctx --hmac-session -c prsa.ctx
t tpm2_sessionconfig salted.ctx --enable-encrypt --enable-decrypt
T tpm2_unseal -c seal.ctx -p session:salted.ctx+sealpass
T tpm2_unseal -c seal.ctx -p session:salted.ctx+bad
T tpm2_dictionarylockout -c
t tpm2_getrandom -S salted.ctx --hex 16
T tpm2_flushcontext salted.ctx
t tpm2_startauthsession -S ecsalt.ctx --hmac-session -c p.ctx -g sha384
t tpm2_sessionconfig ecsalt.ctx --enable-encrypt
T tpm2_unseal -c seal.ctx -p session:ecsalt.ctx+sealpass
T tpm2_flushcontext ecsalt.ctx

# Policies on objects
t "echo psecret | tpm2_create -C p.ctx -u pol.pub -r pol.priv -i- -L pcr.policy -a 'fixedtpm|fixedparent'"
t tpm2_load -C p.ctx -u pol.pub -r pol.priv -c pol.ctx
T tpm2_unseal -c pol.ctx
T tpm2_unseal -c pol.ctx -p pcr:sha256:0,8
T tpm2_pcrextend 8:sha256=$(printf 'e%.0s' {1..64})
T tpm2_unseal -c pol.ctx -p pcr:sha256:0,8
t "echo vsecret | tpm2_create -C p.ctx -u av.pub -r av.priv -i- -L av.policy -p avpass -a 'fixedtpm|fixedparent'"
t tpm2_load -C p.ctx -u av.pub -r av.priv -c av.ctx
t tpm2_startauthsession -S s.ctx --policy-session
t tpm2_policyauthvalue -S s.ctx
T tpm2_unseal -c av.ctx -p session:s.ctx+avpass
t tpm2_policypassword -S s.ctx
T tpm2_unseal -c av.ctx -p session:s.ctx+avpass
T tpm2_unseal -c av.ctx -p session:s.ctx+wrong
T tpm2_flushcontext s.ctx
T tpm2_dictionarylockout -c
t tpm2_startauthsession -S s.ctx --policy-session
t "echo -n > ref; tpm2_loadexternal -C o -u ecc.pub -c signer.ctx -n signer.name"
t tpm2_sign -c ecc.ctx -g sha256 -o pol.sig pcr.policy
t tpm2_verifysignature -c signer.ctx -g sha256 -m pcr.policy -s pol.sig -t pol.tk
T tpm2_policyauthorize -S s.ctx -i pcr.policy -n signer.name -t pol.tk
t tpm2_policypcr -S s.ctx -l sha256:0,8
t tpm2_policyauthorize -S s.ctx -i pcr.policy -n signer.name -t pol.tk
T tpm2_flushcontext s.ctx

# Attestation
t tpm2_createek -c ek.ctx -G rsa -u ek.pub
t tpm2_createek -c ekecc.ctx -G ecc -u ekecc.pub
t tpm2_createak -C ek.ctx -c ak.ctx -G rsa -g sha256 -s rsassa -u ak.pub -n ak.name -r ak.priv
t tpm2_createak -C ekecc.ctx -c akecc.ctx -G ecc -g sha256 -s ecdsa -u akecc.pub -n akecc.name
t tpm2_readpublic -c ak.ctx -f pem -o ak.pem
t tpm2_quote -c ak.ctx -l sha256:0,8 -q aabbcc -m q.msg -s q.sig -o q.pcr -g sha256
t tpm2_checkquote -u ak.pem -m q.msg -s q.sig -f q.pcr -q aabbcc -g sha256
t tpm2_readpublic -c akecc.ctx -f pem -o akecc.pem
t tpm2_quote -c akecc.ctx -l sha1:0+sha256:1,2 -m qe.msg -s qe.sig -o qe.pcr -g sha256
t tpm2_checkquote -u akecc.pem -m qe.msg -s qe.sig -f qe.pcr -g sha256
t tpm2_print -t TPMS_ATTEST q.msg
t tpm2_certify -c ecc.ctx -C ak.ctx -g sha256 -o cert.msg -s cert.sig
t tpm2_gettime -c ak.ctx -g sha256 -o time.sig --attestation time.msg
t tpm2_create -C p.ctx -G ecc256 -u cc.pub -r cc.priv --creation-data cc.data -t cc.tk -d cc.hash
t tpm2_load -C p.ctx -u cc.pub -r cc.priv -c cc.ctx
t tpm2_certifycreation -C ak.ctx -c cc.ctx -d cc.hash -t cc.tk -g sha256 -o cc.sig --attestation cc.att
T "tpm2_certifycreation -C ak.ctx -c ecc.ctx -d cc.hash -t cc.tk -g sha256 -o x.sig --attestation x.att"
T "echo 0123456789abcdef > cred; tpm2_makecredential -u ek.pub -s cred -n \$(xxd -p -c 100 ak.name) -o cred.out"
t tpm2_startauthsession -S s.ctx --policy-session
t tpm2_policysecret -S s.ctx -c e
T tpm2_activatecredential -c ak.ctx -C ek.ctx -i cred.out -o cred.back -P session:s.ctx
T cmp cred cred.back
T tpm2_flushcontext s.ctx
t tpm2_setcommandauditstatus TPM2_CC_Unseal
t tpm2_getcommandauditdigest -c ak.ctx -g sha256 -s aud.sig -m aud.msg
t tpm2_getcommandauditdigest -P "" -c ak.ctx -g sha256 -s aud.sig -m aud.msg

# NV
t tpm2_nvdefine 0x1500001 -C o -s 32 -a "'ownerread|ownerwrite|authread|authwrite'" -p nvpass
T tpm2_nvdefine 0x1500001 -C o -s 32 -a "'ownerread|ownerwrite'"
T tpm2_nvread 0x1500001 -C o
T tpm2_nvwrite 0x1500001 -C o -i data
T "tpm2_nvread 0x1500001 -C o | xxd -p -c 100"
T "tpm2_nvread 0x1500001 -P nvpass -s 4"
T tpm2_nvread 0x1500001 -P wrong -s 4
T tpm2_nvwrite 0x1500001 -P nvpass -i other --offset 8
T "tpm2_nvread 0x1500001 -C o | xxd -p -c 100"
T tpm2_nvwrite 0x1500001 -C o -i big
T tpm2_nvreadpublic 0x1500001
T tpm2_nvread 0x1500099 -C o
t tpm2_nvcertify -C ak.ctx -c o -g sha256 -o nvc.sig --attestation nvc.att --size 4 0x1500001
t tpm2_nvdefine 0x1500002 -C o -a "'ownerread|ownerwrite|nt=counter'"
T tpm2_nvread 0x1500002 -C o
T tpm2_nvincrement 0x1500002 -C o
T tpm2_nvincrement 0x1500002 -C o
T "tpm2_nvread 0x1500002 -C o | xxd -p"
T tpm2_nvwrite 0x1500002 -C o -i eight
t tpm2_nvdefine 0x1500003 -C o -a "'ownerread|ownerwrite|nt=bits'"
T tpm2_nvsetbits 0x1500003 -C o -i 0x5
T tpm2_nvsetbits 0x1500003 -C o -i 0x8000000000000000
T "tpm2_nvread 0x1500003 -C o | xxd -p"
T tpm2_nvincrement 0x1500003 -C o
t tpm2_nvdefine 0x1500004 -C o -g sha256 -a "'ownerread|ownerwrite|nt=extend'"
T tpm2_nvextend 0x1500004 -C o -i data
T "tpm2_nvread 0x1500004 -C o | xxd -p -c 100"
t tpm2_nvdefine 0x1500005 -C o -s 8 -a "'ownerread|ownerwrite|read_stclear|write_stclear'"
T tpm2_nvwrite 0x1500005 -C o -i eight
T tpm2_nvreadlock 0x1500005 -C o
T tpm2_nvread 0x1500005 -C o
T tpm2_nvwritelock 0x1500005 -C o
T tpm2_nvwrite 0x1500005 -C o -i eight
T tpm2_nvwritelock 0x1500001 -C o
T tpm2_nvdefine 0x1500006 -C o -s 8 -a "'ownerwrite'"
T tpm2_nvdefine 0x1500007 -C o -s 8 -a "'ownerread|ownerwrite|platformcreate'"
t tpm2_nvdefine 0x1500008 -C p -s 8 -a "'ppread|ppwrite|platformcreate|globallock'"
T tpm2_nvwritelock --global -C p
T tpm2_nvwrite 0x1500008 -C p -i eight
T tpm2_nvundefine 0x1500008 -C o
T tpm2_nvundefine 0x1500008 -C p
T tpm2_getcap handles-nv-index
t tpm2_startauthsession -S s.ctx --policy-session
T tpm2_policynv -S s.ctx -C o -i- -L nv.policy 0x1500002 ugt "< <(printf '\0\0\0\0\0\0\0\1')"
T tpm2_policynv -S s.ctx -C o -i- 0x1500002 ult "< <(printf '\0\0\0\0\0\0\0\1')"
T tpm2_flushcontext s.ctx
T tpm2_nvundefine 0x1500001 -C o
T tpm2_nvundefine 0x1500002 -C o
T tpm2_nvundefine 0x1500002 -C o

# Persistent objects
T tpm2_evictcontrol -C o -c p.ctx 0x81000001
T tpm2_evictcontrol -C o -c p.ctx 0x81000001
T tpm2_evictcontrol -C o -c pn.ctx 0x81000002
T tpm2_evictcontrol -C o -c p521.ctx 0x81000003
T tpm2_evictcontrol -C p -c p521.ctx 0x81800001
T tpm2_getcap handles-persistent
t tpm2_create -C 0x81000001 -G ecc256 -u e.pub -r e.priv
t tpm2_load -C 0x81000001 -u e.pub -r e.priv -c e.ctx
T tpm2_readpublic -c 0x81000009
T tpm2_evictcontrol -C o -c 0x81000001
T tpm2_evictcontrol -C p -c 0x81800001
T tpm2_getcap handles-persistent

# Duplication
t tpm2_startauthsession -S s.ctx
t tpm2_policycommandcode -S s.ctx -L d.policy TPM2_CC_Duplicate
T tpm2_flushcontext s.ctx
t tpm2_create -C p.ctx -G rsa2048 -u d.pub -r d.priv -L d.policy -a "'sensitivedataorigin|userwithauth|decrypt|sign'"
t tpm2_load -C p.ctx -u d.pub -r d.priv -c d.ctx
t tpm2_startauthsession -S s.ctx --policy-session
t tpm2_policycommandcode -S s.ctx TPM2_CC_Duplicate
t tpm2_duplicate -C prsa.ctx -c d.ctx -G null -p session:s.ctx -r dup.priv -s dup.seed
T tpm2_flushcontext s.ctx
t tpm2_import -C prsa.ctx -u d.pub -i dup.priv -r imp.priv -s dup.seed
t tpm2_load -C prsa.ctx -u d.pub -r imp.priv -c imp.ctx
t tpm2_sign -c imp.ctx -g sha256 -o imp.sig data
T tpm2_verifysignature -c d.ctx -g sha256 -m data -s imp.sig
t tpm2_startauthsession -S s.ctx --policy-session
t tpm2_policycommandcode -S s.ctx TPM2_CC_Duplicate
t tpm2_duplicate -C prsa.ctx -c d.ctx -G aes -o dup.key -p session:s.ctx -r dup2.priv -s dup2.seed
T tpm2_flushcontext s.ctx
t tpm2_import -C prsa.ctx -u d.pub -i dup2.priv -r imp2.priv -s dup2.seed -k dup.key
T tpm2_duplicate -C prsa.ctx -c ecc.ctx -G null -r x.priv -s x.seed
t "openssl genrsa -out k.pem 2048 2> /dev/null; tpm2_import -C p.ctx -G rsa -i k.pem -u k.pub -r k.priv"
t tpm2_load -C p.ctx -u k.pub -r k.priv -c k.ctx
t tpm2_sign -c k.ctx -g sha256 -o k.sig -f plain data
T "openssl rsa -in k.pem -pubout -out k.pub.pem 2> /dev/null; openssl dgst -sha256 -verify k.pub.pem -signature k.sig data"
t "openssl ecparam -name prime256v1 -genkey -noout -out ke.pem; tpm2_import -C p.ctx -G ecc -i ke.pem -u ke.pub -r ke.priv"
t tpm2_load -C p.ctx -u ke.pub -r ke.priv -c ke.ctx
t tpm2_loadexternal -G rsa -C n -r k.pem -c kx.ctx
t tpm2_loadexternal -G ecc -C n -r ke.pem -c kex.ctx
t tpm2_loadexternal -C o -G rsa -u k.pub.pem -c kp.ctx
T tpm2_verifysignature -c kp.ctx -g sha256 -m data -s k.sig -f rsassa
T tpm2_sign -c kp.ctx -g sha256 -o x.sig data

# Hierarchies, lockout, clock
T tpm2_changeauth -c o ownerpass
T tpm2_createprimary -C o -G ecc256 -c x.ctx
t tpm2_createprimary -C o -P ownerpass -G ecc256 -c po.ctx
T tpm2_changeauth -c o -p ownerpass
T tpm2_changeauth -c e epass
T tpm2_changeauth -c e -p epass
T tpm2_changeauth -c l lpass
T tpm2_dictionarylockout -s -n 5 -t 100000 -l 200000 -p lpass
T tpm2_dictionarylockout -s -n 5 -t 100000 -l 200000 -p bad
T tpm2_dictionarylockout -c -p lpass
T "tpm2_getcap properties-variable | grep -A1 'LOCKOUT\|AUTH_FAIL'"
T tpm2_setprimarypolicy -C o -L pw.policy -g sha256
T tpm2_hierarchycontrol -C p shEnable clear
T tpm2_createprimary -C o -G ecc256 -c x.ctx
T tpm2_hierarchycontrol -C o shEnable set
T tpm2_hierarchycontrol -C p shEnable set
T tpm2_hierarchycontrol -C p ehEnable clear
T tpm2_hierarchycontrol -C p ehEnable set
T tpm2_setclock 10000000
T tpm2_setclock 1
T tpm2_clockrateadjust ss
T tpm2_clearcontrol -C p s
T tpm2_clear -c p
T tpm2_clearcontrol -C p c
T tpm2_clear -c p
T tpm2_changeeps
T tpm2_changepps
T tpm2_shutdown -c
